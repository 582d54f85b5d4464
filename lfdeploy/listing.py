"""What `list`, `doctor` and `predict` print."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lfdeploy.console import Meter, document, say, table
from lfdeploy.errors import LfdeployError
from lfdeploy.images import SUFFIXES
from lfdeploy.names import printable

if TYPE_CHECKING:
    from lfdeploy.predict import Prediction
    from lfdeploy.run import Run

CHUNK = 256


def show(what: str | None, runs: str, as_json: bool) -> None:
    """One of the tables, or what lies in the runs directory; None shows them all."""
    if as_json:
        tables = {name: list(rows(runs)) for name, rows in _ROWS.items() if what in (None, name)}
        document(tables[what] if what else tables)
        return
    for name in [what] if what else _ROWS:
        _show(name, list(_ROWS[name](runs)), runs, "" if what else name.capitalize())


def _show(what: str, rows: list[dict[str, Any]], runs: str, title: str) -> None:
    if not rows:
        say(f"There are no {what} in {runs}/ yet. Make one with: lfdeploy {'train' if what == 'runs' else 'export'}")
        return
    columns = [c for c in rows[0] if c != "options"]
    table(title, columns, [[_text(row[c]) for c in columns] for row in rows], left=len(columns))
    for row in rows:
        if row.get("options"):
            cells = [[o["name"], _text(o["default"]), "|".join(o["choices"]), o["help"]] for o in row["options"]]
            table(f"Options of {row['method']} (-o KEY VALUE)", ["key", "default", "choices", "what it is"], cells, left=4)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}" if value < 1 or value == int(value) else f"{value:.2f}"
    return "-" if value is None else str(value)


def _methods(runs: str) -> Iterator[dict[str, Any]]:
    from training.methods import METHODS

    for name, method in METHODS.items():
        options = [
            {"name": f.name, "default": f.default, "choices": list(f.metadata["choices"]), "help": f.metadata["help"]}
            for f in fields(method.options)
        ]
        yield {"method": name, "what it is": method.about, "options": options}


def _archs(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.models import ARCHITECTURES

    for name, row in ARCHITECTURES.items():
        yield {"architecture": name, "what it is": row.about}


def _datasets(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.sources import DATASETS

    for name, row in DATASETS.items():
        yield {"data": name, "what it is": row.about}
    yield {"data": "DIR", "what it is": "class folders of pictures, or train/ val/ test/ of class folders"}
    yield {"data": "FILE.csv", "what it is": "a table with the columns path,label[,split]; paths are relative to the file"}
    yield {"data": "FILE.npz", "what it is": "train_x uint8 (N,H,W,3), train_y, test_x, test_y, classes"}


def _backends(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.backends import BACKENDS

    for name, row in BACKENDS.items():
        yield {"backend": name, "format": row.format, "what it is": row.about,
               "precisions": ", ".join(row.precisions) if row.build else "-", "builds here": row.missing() or "yes",
               "runs here": row.cannot_run() or row.missing() or "yes"}  # fmt: skip


def _runs(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.runs import newest_first

    for run in newest_first(runs):
        try:
            yield _run(run)
        except (LfdeployError, OSError, KeyError, TypeError, ValueError) as error:
            say(f"Note: run {run.name} is damaged: {printable(str(error))}")
            yield {"run": run.name, "method": None, "networks": None, "best peer %": None, "fused %": None, "state": "damaged"}


def _run(run: Run) -> dict[str, Any]:
    config, done = run.read("config.json"), (run.path / "summary.json").exists()
    test = run.read("summary.json")["test"] if done else {"peers": [], "fused": None, "ensemble": None}
    state = "finished" if done else "diverged" if run.diverged() else "not finished"
    return {
        "run": run.name,
        "method": config["method"],
        "networks": " + ".join(run.spec["archs"]),
        "best peer %": max(test["peers"], default=None),
        "fused %": test["fused"],
        "state": state,
    }


def _artifacts(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.artifact import all_artifacts
    from lfdeploy.run import shown

    for a in all_artifacts(runs):
        accuracy = a.manifest.get("accuracy")
        yield {"artifact": a.name, "run": a.manifest["run"]["name"], "MB": round(a.manifest["bytes"] / 1e6, 2),
               "top-1 %": accuracy["top1"] if accuracy else None, "parity": a.verdict, "path": shown(a.path)}  # fmt: skip


_ROWS = {"methods": _methods, "archs": _archs, "datasets": _datasets, "backends": _backends, "runs": _runs, "artifacts": _artifacts}


def doctor(artifact: str | None, runs: str, as_json: bool) -> None:
    """What is installed, what works here and why not; or, of an artifact, whether it is whole and runs here."""
    if artifact:
        return _doctor_of(artifact, runs, as_json)
    import importlib.util
    import sys

    import lfdeploy
    from lfdeploy.backends import BACKENDS
    from lfdeploy.devices import gpus
    from lfdeploy.run import versions

    home = Path(lfdeploy.__file__).resolve().parent.parent
    strangers = []
    for stage in ("training", "export", "serve"):
        found = importlib.util.find_spec(stage)
        if found is None or found.origin is None or Path(found.origin).resolve().parent.parent != home:
            strangers.append(f"'{stage}' is imported from {found.origin if found else 'nowhere'}, not from {home}")
    facts: dict[str, Any] = {
        "versions": versions(),
        "cpus": os.cpu_count(),
        "gpus": [f"{gpu.name} (compute capability {gpu.capability})" for gpu in gpus()],
        "backends": {
            name: {"builds": row.missing() or "yes", "runs": row.cannot_run() or row.missing() or "yes"} for name, row in BACKENDS.items()
        },
        "problems": strangers,
    }
    if as_json:
        document(facts)
    else:
        table("Versions", ["package", "version"], [[k, v] for k, v in facts["versions"].items()], left=2)
        cells = [[name, told["builds"], told["runs"]] for name, told in facts["backends"].items()]
        table("Backends", ["backend", "builds here", "runs here"], cells, left=3)
        gpu_names = ", ".join(facts["gpus"]) or "none"
        click.echo(f"CPU cores: {facts['cpus']}   GPUs: {gpu_names}   Python: {sys.executable}")
    if strangers:
        raise LfdeployError(f"{strangers[0]}; reinstall lfdeploy into an environment of its own.")


def _doctor_of(name: str, runs: str, as_json: bool) -> None:
    from lfdeploy.artifact import resolve
    from lfdeploy.devices import gpus, unusable
    from lfdeploy.diagnosis import diagnose
    from lfdeploy.run import versions

    artifact = resolve(name, runs)
    artifact.check_file()
    faults: dict[str, str] = {}
    if artifact.manifest["format"] == "trt":
        from lfdeploy.backends.trt import INVALID, MODULES, header_faults

        package = str(artifact.manifest.get("engine", {}).get("package"))
        faults = {name: INVALID.get(name, name) for name in header_faults(package, artifact.file)} if package in MODULES else {}
    library = {"onnx": "onnxruntime", "openvino": ""}.get(str(artifact.manifest["format"]), "torch")
    found = diagnose(artifact, gpus(), versions(), faults, unusable(library) if library else "")
    told = {"name": artifact.name, "whole": True, "runs_here": found.state == "runs here", "state": found.state,
            "reason": found.reason, "command": found.command, "verdict": artifact.verdict}  # fmt: skip
    if as_json:
        document({"versions": versions(), "artifact": told})
        return
    click.echo(f"{artifact.name}: whole (its bytes are the manifest's), parity {artifact.verdict}")
    click.echo(f"{found.state}: {found.reason}")
    click.echo(f"Next: {found.command}")


def pictures_below(given: Iterable[str]) -> list[Path]:
    """Files as they are; of a directory all pictures below it, in order, by the rules of training data."""
    from lfdeploy import folders

    found: list[Path] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            left_out: folders.LeftOut = {}
            inside = sorted(folders.pictures_below(path, left_out))
            if not inside:
                raise LfdeployError(f"{path} has no pictures ({', '.join(SUFFIXES[:6])}...).")
            for sentence in folders.sentences(left_out, path):
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
    """Answer and print: lines, a JSON document, or a CSV file. Exit code 1 when no picture at all could be read."""
    from lfdeploy.overlay import Overlays
    from lfdeploy.predict import Predictor
    from lfdeploy.run import may_write

    if csv_file:
        may_write("--csv", csv_file)
    predictor = Predictor.open(artifact, device=device, backend=backend, run=run, runs=runs)
    files = pictures_below(given)
    maps = Overlays.into(explain, predictor) if explain else None
    answers: list[Prediction] = []
    with Meter("Pictures", len(files), "pictures") as meter:
        for start in range(0, len(files), CHUNK):
            part = predictor.predict(files[start : start + CHUNK], top)
            if maps:
                maps.write(files[start : start + CHUNK], part)
            answers += part
            meter.at(len(answers))
    if as_json:
        rows = [{"picture": a.source, "label": a.label or None, "top": [{"label": n, "probability": p} for n, p in a.top],
                 "abstain": a.abstain, "notes": list(a.notes), "error": a.error or None} for a in answers]  # fmt: skip
        subject, session = predictor.artifact, predictor.session
        facts = {"artifact": subject.name, "sha256": subject.manifest["sha256"], "backend": session.backend}
        document(facts | {"device": session.device, "predictions": rows})
    elif csv_file:
        write_csv(Path(csv_file), answers, top)
        say(f"{len(answers)} rows in {csv_file}")
    else:
        _print(answers)
    if maps:
        say(f"{len(maps.names)} heat maps in {explain}")
    bad = [a for a in answers if a.error]
    if bad and len(bad) == len(answers):
        raise LfdeployError(bad[0].error if len(bad) == 1 else f"none of the {len(bad)} files is a readable picture.")
    if bad:
        say(f"{len(bad)} of {len(answers)} files could not be read; the first: {printable(bad[0].error)}")


def _print(answers: Sequence[Prediction]) -> None:
    width = max(len(printable(a.source)) for a in answers)
    for a in answers:
        classes = "  ".join(f"{name} {100 * p:.1f}%" for name, p in a.top)
        notes = "; ".join((*(["not sure"] if a.abstain else []), *a.notes))
        text = classes or f"no answer: {printable(a.error)}"
        click.echo(f"{printable(a.source):<{width}}  {text}" + (f"  ({notes})" if notes else ""))


def write_csv(path: Path, answers: Iterable[Prediction], top: int) -> None:
    """A row a picture with its ``top`` classes, in UTF-8, labels as they are; names of files byte for byte."""
    from lfdeploy.run import write_bytes

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["picture", "error", *[f"{word}{i + 1}" for i in range(top) for word in ("label", "probability")], "abstain"])
    for a in answers:
        cells = [cell for name, p in a.top for cell in (name, f"{p:.7g}")]
        cells += [""] * (2 * top - len(cells))
        writer.writerow([a.source, a.error, *cells, "" if a.abstain is None else str(a.abstain).lower()])
    write_bytes(path, text.getvalue().encode(errors="surrogateescape"))
