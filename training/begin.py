"""The directory of a new run, and the lines that a training begins with."""

from __future__ import annotations

from pathlib import Path

from lfdeploy import recorded_splits
from lfdeploy.config import TrainConfig
from lfdeploy.console import say
from lfdeploy.data import Data
from lfdeploy.images import RESIZE
from lfdeploy.labels import counted
from lfdeploy.locks import Lock
from lfdeploy.names import stem_of
from lfdeploy.run import SCHEMA, Run, config_json
from lfdeploy.runs import new_run
from training.batches import Batches
from training.cohort import Cohort
from training.remarks import from_scratch, seen


def begin(
    config: TrainConfig, name: str | None, runs: Path, data: Data, archs: tuple[str, ...], cohort: Cohort,
    pixels: tuple[list[float], list[float]], held: list[Lock],
) -> Run:  # fmt: skip
    """The run's directory with its first documents; its lock, which is held, is added to ``held``."""
    mean, std = pixels
    spec = {
        "schema": SCHEMA,
        "method": config.method,
        "archs": list(archs),
        "classes": list(data.classes),
        "image_size": data.image_size,
        "resize": RESIZE,
        "mean": mean,
        "std": std,
        "data_fingerprint": data.fingerprint,
    } | cohort.layout.document()
    stem = stem_of("-".join((data.name, config.method, *dict.fromkeys(archs))))
    documents = {
        "config.json": config_json(config),
        "spec.json": spec,
        recorded_splits.FILE: recorded_splits.to_bytes(data),
    }
    run, lock = new_run(runs, name, stem, documents)
    held.append(lock)
    return run


def tell(
    run: Run, config: TrainConfig, data: Data, archs: tuple[str, ...], batches: Batches, epochs: int, how: str
) -> None:
    """What is trained on what, and what of the data is to be known."""
    say(
        f"Run {run.name}: {' + '.join(archs)} by {config.method} on {data.name}, "
        f"{data.image_size}x{data.image_size} px"
    )
    advice = [] if (run.path / "checkpoint").exists() else from_scratch(config, data)
    for remark in (*data.remarks, *seen(config, run.path.parent, data), *advice):
        say(f"Note: {remark}.")
    for fault in data.bad[:5]:
        say(f"Left out: {fault}")
    if data.bad:
        say(f"Left out {counted(len(data.bad), 'file')} in all.")
    say(
        f"{counted(len(data.classes), 'class')}, {counted(len(data.train), 'training picture')}, "
        f"{len(data.val):,} validation, {len(data.test):,} test; {counted(epochs, 'epoch')} of "
        f"{counted(batches.steps, 'step')} of {batches.batch_size}; {how}"
    )
