"""Parity of artifacts on a run's test pictures: here for `lfdeploy verify`, in a process of its own for
an export.

The fresh process reads everything from disk again: the run's weights, the pictures, the staged bytes.
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from export.parity.members import combined, expanded
from export.parity.probabilities import on_test
from export.parity.reference import Reference, reference, references
from export.parity.verdict import Report, judge
from export.report.page import page
from lfdeploy.artifact import Artifact, read, run_of
from lfdeploy.backends import chosen
from lfdeploy.by_class import by_class, mistakes
from lfdeploy.chance import against_chance
from lfdeploy.console import Meter, another_speaks, decoding, say
from lfdeploy.data import Data, Split
from lfdeploy.errors import LfdeployError, ParityError, sentence
from lfdeploy.familiarity import unfamiliar
from lfdeploy.locks import Lock
from lfdeploy.models.multi_output import ALL
from lfdeploy.run import Run, write_json

REPORT = "parity.json"  # beside a staged artifact, until it is published


def verify(
    artifact: Artifact,
    *,
    run: str | None = None,
    runs: str = "runs",
    data: str | None = None,
    images: int | None = None,
    device: str = "auto",
    backend: str = "auto",
) -> Report:
    """Parity of one artifact again, on this machine.

    Raises `ParityError` when its bytes are not the manifest's.
    """
    artifact.check_file()
    chosen(artifact.manifest, backend)
    return prove(run_of(artifact, run, runs), [artifact], data, images, device, backend=backend)[0]


def prove(
    run: Run,
    artifacts: Sequence[Artifact],
    data: str | None = None,
    images: int | None = None,
    device: str = "auto",
    done: Callable[[Artifact, Report, Reference], None] = lambda artifact, report, reference: None,
    backend: str = "auto",
) -> list[Report]:
    """Judge artifacts of one run, ``done`` with each; pictures are decoded once, reference logits computed
    once per target.

    Several targets share one pass, each backbone computed once. The file of all targets is made of that very
    module, so its references are those of the separate ones.
    """
    with decoding() as report:
        pictures = run.data(data, report)
    for remark in pictures.remarks:
        say(f"Note: {remark}.")
    split = pictures.test
    if images is not None and images < len(split):
        # the order is that of content: a fair sample
        split = Split(split.images[:images], split.labels[:images], split.digest, split.digests[:images])
    targets = sorted({str(a.manifest["target"]) for a in artifacts})
    reports: dict[str, Report] = {}
    together = len(targets) > 1 and ALL not in targets
    passes = 1 if together else len({name for target in targets for name in expanded(run, target)})
    total, after = len(split) * (passes + len(artifacts)), "pictures done; other checks follow"
    with Meter("Parity", total, "pictures", after) as meter:
        seen = 0

        def tick(count: int) -> None:
            nonlocal seen
            seen += count
            meter.at(seen)

        shared = references(run, split, pictures, tick) if together else {}
        refs = functools.cache(
            lambda target: shared.get(target) or reference(run, target, split, pictures, tick)
        )
        for target in targets:
            ref = combined(run, refs) if target == ALL else refs(target)
            for artifact in artifacts:
                if artifact.manifest["target"] == target:
                    meter.at(max(seen, 1), f"Parity of {_plain(artifact.name)}")
                    reports[str(artifact.path)] = judge(artifact, run, ref, device, tick, backend)
                    done(artifact, reports[str(artifact.path)], ref)
    return [reports[str(artifact.path)] for artifact in artifacts]


def _plain(name: str) -> str:
    """An artifact's name; a staged one's without the dot before it and the key behind it."""
    return name[1:].rsplit(".", 1)[0] if name.startswith(".") else name


def in_fresh_process(run: Run, staged: Sequence[Path], data: str | None, locks: Sequence[Lock] = ()) -> None:
    """Write a report beside each staged artifact, from a process that starts from nothing.

    A report once written stays. The process holds the ``locks`` too, and a Ctrl-C is this one's alone, which
    then ends it.
    """
    order = json.dumps({"run": str(run.path), "staged": [str(path) for path in staged], "data": data})
    command = [sys.executable, "-P", "-c", "from export.prove import main; main()"]
    keep = [lock.descriptor for lock in locks if lock.descriptor is not None]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", pass_fds=keep
        ) as process:  # fmt: skip
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)  # a Ctrl-C that waited comes here
                with another_speaks():
                    fault = process.communicate(order)[0].strip()
            except BaseException:
                process.kill()
                raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if process.returncode != 0:
        raise LfdeployError(f"the parity process ended with code {process.returncode}; nothing was published")
    if fault:
        raise LfdeployError(fault)


def main() -> None:
    """The fresh process: an order on standard input, reports beside the artifacts, an expected fault on
    standard output.
    """
    text = sys.stdin.read()
    if not text:  # whoever asked was interrupted before it could say for what
        sys.exit(128 + signal.SIGINT)
    order = json.loads(text)
    try:
        with Meter("Parity"):
            write_reports(Run(Path(order["run"])), [Path(place) for place in order["staged"]], order["data"])
    except LfdeployError as error:
        print(error)
    except OSError as error:
        if not error.strerror:
            raise
        print(sentence(error))


def write_reports(run: Run, staged: Sequence[Path], data: str | None) -> None:
    """Judge staged artifacts, and lay parity.json and report.html beside each."""

    def done(artifact: Artifact, report: Report, ref: Reference) -> None:
        tested = on_test(artifact.manifest, report.logits, ref.images.labels)
        document = report.document() | ({"probabilities": tested} if tested else {}) | judged(ref.data)
        told = [] if report.logits is None else unfamiliar(artifact.manifest, report.logits)
        if told and None not in told:
            document["familiarity"] = {"images": len(told), "familiar": told.count(False)}
        if report.comparison:
            right = round(report.comparison["top1"] * report.comparison["images"] / 100)
            document["chance"] = against_chance(right, ref.images.labels)
        if report.comparison and report.logits is not None:
            answers = report.logits.argmax(1), ref.images.labels, report.logits.shape[1]
            document["by_class"] = by_class(*answers) | mistakes(*answers)
        shown = page(artifact.manifest, document, ref.images, ref.logits, report.logits)
        (artifact.path / "report.html").write_text(shown, encoding="utf-8")
        write_json(artifact.path / REPORT, document)

    prove(run, [read(place) for place in staged], data, done=done)


def judged(data: Data) -> dict[str, Any]:
    """For a report on other pictures than the run's: whose they are, and how many the run was trained on."""
    if data.whose is None:
        return {}
    known = None if data.trained_on is None else int(data.trained_on.sum())
    return {"judged": {"data": data.whose, "trained_on": known}}


def refuse_failed(artifact: Artifact, report: Report) -> None:
    """Raise for a failed report; the message names the stage."""
    if report.verdict == "fail":
        raise ParityError(f"{artifact.name}: parity failed at {report.reason}.")
