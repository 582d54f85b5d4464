"""Parity of artifacts on a run's test pictures: here for `lfdeploy verify`, in a process of its own for an export.

The fresh process reads everything from disk again: the run's weights, the pictures, the staged bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.parity import Report, judge
from export.reference import reference
from lfdeploy.artifact import Artifact, read, run_of
from lfdeploy.backends import BACKENDS, executes
from lfdeploy.console import Meter, decoding
from lfdeploy.data import Split
from lfdeploy.errors import LfdeployError, ParityError
from lfdeploy.run import Run


def verify(
    artifact: Artifact,
    *,
    run: str | None = None,
    runs: str = "runs",
    data: str | None = None,
    images: int | None = None,
    device: str = "auto",
) -> Report:
    """Parity of one artifact again, on this machine. Raises `ParityError` when its bytes are not the manifest's."""
    artifact.check_file()
    return prove(run_of(artifact, run, runs), [artifact], data, images, device)[0]


def prove(
    run: Run, artifacts: Sequence[Artifact], data: str | None = None, images: int | None = None, device: str = "auto"
) -> list[Report]:
    """Judge artifacts of one run; pictures are decoded once, reference logits computed once per target."""
    with decoding() as report:
        pictures = run.data(data, report)
    split = pictures.test
    if images is not None and images < len(split):
        split = Split(
            split.images[:images], split.labels[:images], split.digest, split.digests[:images]
        )  # the order is that of content: a fair sample
    targets = sorted({str(a.manifest["target"]) for a in artifacts})
    reports: dict[str, Report] = {}
    with Meter("Parity", len(split) * (len(targets) + len(artifacts)), "pictures") as meter:
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            meter.at(done)

        for target in targets:
            ref = reference(run, target, split, pictures, tick)
            for artifact in artifacts:
                if artifact.manifest["target"] == target:
                    meter.at(max(done, 1), f"Parity of {artifact.name}")
                    reports[str(artifact.path)] = judge(artifact, run, ref, device, tick)
    return [reports[str(artifact.path)] for artifact in artifacts]


def in_fresh_process(run: Run, staged: Sequence[Path], data: str | None) -> list[dict[str, Any]]:
    """The reports of staged artifacts, as documents, from a process that starts from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reports.json"
        order = {"run": str(run.path), "staged": [str(path) for path in staged], "data": data, "out": str(out)}
        done = subprocess.run(
            [sys.executable, "-P", "-c", "from export.prove import main; main()"], input=json.dumps(order), text=True, check=False
        )
        if done.returncode != 0 or not out.exists():
            raise LfdeployError(f"the parity process ended with code {done.returncode}; nothing was published")
        reports: list[dict[str, Any]] = json.loads(out.read_text())
    faults = [report["error"] for report in reports if "error" in report]
    if faults:
        raise LfdeployError(faults[0])
    return reports


def main() -> None:
    """The fresh process: an order on standard input, reports into the file it names."""
    order = json.load(sys.stdin)
    try:
        reports = prove(Run(Path(order["run"])), [read(Path(p)) for p in order["staged"]], order["data"])
        documents = [report.document() for report in reports]
    except LfdeployError as error:
        documents = [{"error": str(error)}]
    Path(order["out"]).write_text(json.dumps(documents))


def require_verified(artifact: Artifact, report: Report) -> None:
    """Raise for a failed report; the message names the stage."""
    if report.verdict == "fail":
        raise ParityError(f"{artifact.name}: parity failed at {report.reason}.")


def hindrance(artifact: Artifact) -> str:
    """Why this machine cannot run the artifact; empty when it can."""
    return BACKENDS[executes(artifact.manifest)].cannot_run()
