"""What `lfdeploy predict` prints and writes: answers for many pictures."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lfdeploy.confidence import percent
from lfdeploy.console import Meter, document, say
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.images import SUFFIXES
from lfdeploy.labels import counted
from lfdeploy.names import printable

if TYPE_CHECKING:
    from lfdeploy.overlay import Overlays
    from lfdeploy.predict import Prediction, Predictor

CHUNK = 256


def pictures_below(given: Iterable[str]) -> list[Path]:
    """Files as they are; of a directory all pictures below it, in order, by the rules of training data."""
    from lfdeploy.folder_entries import LeftOut, sentences
    from lfdeploy.folder_entries import pictures_below as below

    found: list[Path] = []
    for name in given:
        if not name.strip():  # an unset variable of a shell, which as a path means all that is below here
            raise UsageError("A picture's name is empty; write a file or a folder (. for this one).")
        path = Path(name)
        if path.is_dir():
            left_out: LeftOut = {}
            inside = sorted(below(path, left_out))
            if not inside:
                raise LfdeployError(f"{path} has no pictures ({', '.join(SUFFIXES[:6])}...).")
            for sentence in sentences(left_out, path):
                say(f"Note: {sentence}.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise LfdeployError(f"There is no file '{name}'.")
    return found


def predict(
    artifact: str,
    given: tuple[str, ...],
    top: int,
    csv_file: str | None,
    explain: str | None,
    backend: str,
    device: str,
    run: str | None,
    runs: str,
    as_json: bool,
) -> None:
    """Answer and print: lines, a JSON document, or a CSV file.

    Exit code 1 when no picture at all could be read.
    """
    from lfdeploy.overlay import Overlays
    from lfdeploy.predict import Predictor
    from lfdeploy.run import may_write

    if csv_file and csv_file != "-":
        may_write("--csv", csv_file)
    predictor = Predictor.open(artifact, device=device, backend=backend, run=run, runs=runs)
    files = pictures_below(given)
    maps = Overlays.into(explain, predictor, files) if explain else None
    answers: list[Prediction] = []
    with Meter("Pictures", len(files), "pictures") as meter:
        for start in range(0, len(files), CHUNK):
            part = predictor.predict(files[start : start + CHUNK], top)
            if maps:
                maps.write(files[start : start + CHUNK], part)
            answers += part
            meter.at(len(answers))
    if as_json:
        document(_document(predictor, answers, maps))
    elif csv_file:
        write_csv(csv_file, answers, top, maps)
    elif len(answers) > 1 or not answers[0].error:  # what is wrong with one alone is the command's last line
        _print(answers)
    if maps:
        say(f"{counted(len(maps.names), 'heat map')} in {explain}, each called after its picture")
    bad = [a for a in answers if a.error]
    if bad and len(bad) == len(answers):
        raise LfdeployError(
            bad[0].error if len(bad) == 1 else f"none of the {len(bad)} files is a readable picture."
        )
    if bad:
        say(f"{len(bad)} of {len(answers)} files could not be read; the first: {printable(bad[0].error)}")


def _document(predictor: Predictor, answers: Sequence[Prediction], maps: Overlays | None) -> dict[str, Any]:
    rows = [
        {
            "picture": answer.source,
            "label": answer.label or None,
            "top": [{"label": label, "probability": probability} for label, probability in answer.top],
            "abstain": answer.abstain,
            "unfamiliar": answer.unfamiliar,
            "notes": list(answer.notes),
            "error": answer.error or None,
        }
        | ({"heatmap": maps.names.get(answer.source)} if maps else {})
        for answer in answers
    ]
    artifact, session = predictor.artifact, predictor.session
    return {
        "artifact": artifact.name,
        "sha256": artifact.manifest["sha256"],
        "backend": session.backend,
        "device": session.device,
        "predictions": rows,
    }


def _print(answers: Sequence[Prediction]) -> None:
    width = max(len(printable(a.source)) for a in answers)
    for a in answers:
        classes = "  ".join(f"{name} {percent(p).replace(' ', '')}" for name, p in a.top)
        said = ["not sure"] * bool(a.abstain) + ["unlike its training pictures"] * bool(a.unfamiliar)
        notes = "; ".join((*said, *a.notes))
        text = classes or f"no answer: {printable(a.error)}"
        click.echo(f"{printable(a.source):<{width}}  {text}" + (f"  ({notes})" if notes else ""))


def write_csv(name: str, answers: Sequence[Prediction], top: int, maps: Overlays | None = None) -> None:
    """A row a picture with its ``top`` classes, in UTF-8, labels as they are; names of files byte for byte.
    The name ``-`` is standard output.
    """
    from lfdeploy.run import write_bytes

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            "picture",
            "error",
            *[f"{word}{i + 1}" for i in range(top) for word in ("label", "probability")],
            "abstain",
            "unfamiliar",
            "notes",
            *(["heatmap"] if maps else []),
        ]
    )
    for a in answers:
        cells = [cell for name, p in a.top for cell in (name, f"{p:.7g}")]
        cells += [""] * (2 * top - len(cells))
        told = ["" if value is None else str(value).lower() for value in (a.abstain, a.unfamiliar)]
        drawn = [maps.names.get(a.source, "")] if maps else []
        writer.writerow([a.source, a.error, *cells, *told, "; ".join(a.notes), *drawn])
    blob = text.getvalue().encode(errors="surrogateescape")
    if name == "-":
        sys.stdout.buffer.write(blob)
        return
    write_bytes(Path(name), blob)
    counts = {
        "unlike the training pictures": sum(bool(a.unfamiliar) for a in answers),
        "not sure": sum(bool(a.abstain) for a in answers),
        "without an answer": sum(bool(a.error) for a in answers),
    }
    odd = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    say(f"{counted(len(answers), 'row')} in {name}{': ' * bool(odd)}{odd}")
