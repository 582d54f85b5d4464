"""What a run is to say of its pictures when it begins: who has seen them, and whether they have changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lfdeploy import recorded_splits
from lfdeploy.artifact import resolve, run_of
from lfdeploy.config import TrainConfig
from lfdeploy.data import Data
from lfdeploy.errors import LfdeployError
from lfdeploy.labels import counted
from lfdeploy.recorded_splits import SPLITS
from lfdeploy.run import Run
from training.teachers import names_of

PHOTO = 64  # pixels a side, from which a model's pictures are photos
MANY = 20_000  # pictures from which a network learns well without trained weights


def seen(config: TrainConfig, runs: Path, data: Data) -> list[str]:
    """Which runs that teach, or whose weights are the start, learnt pictures that are to test here."""
    remarks = []
    start = [config.weights] if config.weights not in (None, "default") else []
    for name in filter(None, [*names_of(config.teacher), *start]):
        run = run_behind(name, runs)
        then = None if run is None else run.record()
        count = 0 if then is None else int(np.isin(data.test.files, then.splits["train"].files).sum())
        if run is not None and count:
            whose = f"run {run.name} was trained on {count:,} of the {len(data.test):,} test pictures"
            remarks.append(f"{whose}: what begins with it or learns from it looks better here than it is")
    return remarks


def from_scratch(config: TrainConfig, data: Data) -> list[str]:
    """That photos are learnt better from trained weights, where a training begins without."""
    if config.weights is not None or data.image_size < PHOTO or len(data.train) > MANY:
        return []
    better = "--arch efficientnet_lite0 --weights default"
    return [f"the networks begin from scratch; so few photos are learnt far better with {better}"]


def run_behind(name: str, runs: Path) -> Run | None:
    """The run that has a record of its pictures and is meant by the name of a run, of a file in it, or of an
    artifact; None for anything else.
    """
    place = Path(name)
    inside = list(place.absolute().parents)[:2] if place.is_file() else []
    for folder in (place, runs / name, *inside):
        if (folder / recorded_splits.FILE).is_file():
            return Run(folder)
    try:
        run = run_of(resolve(name, runs, tell=False), None, runs)
    except LfdeployError:  # no artifact, or one without its run
        return None
    return run if (run.path / recorded_splits.FILE).is_file() else None


def changed_since(run: Run, data: Data) -> list[str]:
    """How the pictures differ from those of the run whose settings are repeated; empty where they do not."""
    if run.spec.get("data_fingerprint") == data.fingerprint:
        return []
    what = f"{data.name} is not as it was for run {run.name}, whose settings these are"
    record = run.record()
    if record is None:
        return [f"{what}: this run may differ from it"]
    here = np.concatenate([data.split(name).files for name in SPLITS])
    then = np.concatenate([record.splits[name].files for name in SPLITS])
    came, gone = int((~np.isin(here, then)).sum()), int((~np.isin(then, here)).sum())
    how = [f"{counted(count, 'picture')} {verb}" for count, verb in ((came, "came"), (gone, "went")) if count]
    return [f"{what} ({' and '.join(how) or 'the same pictures, split or read otherwise'})"]
