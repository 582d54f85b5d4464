"""The end of a training: the kept weights are judged once, and what there is to know of them is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lfdeploy.chance import against_chance
from lfdeploy.config import TrainConfig
from lfdeploy.console import Meter
from lfdeploy.data import Data
from lfdeploy.devices import instruction_set
from lfdeploy.errors import Interrupted
from lfdeploy.recorded_logits import Floats
from lfdeploy.run import typed, versions, write_json
from training import checkpoint, metrics, plots
from training.average import applied
from training.evaluate import Scores, evaluate_cohort
from training.familiar import learn_familiarity
from training.setup import Setup
from training.testimony import testified


@dataclass(frozen=True)
class Judged:
    """Scores of the last epoch's weights on test, and of the kept ones on test and val, with logits (N, K) of
    the kept ones by target.
    """

    last: Scores
    kept: Scores
    val: Scores | None
    test_logits: dict[str, Floats]
    val_logits: dict[str, Floats]


def _chances(scores: Scores, labels: NDArray[np.int64]) -> dict[str, Any]:
    """Of every target: is it better than the most frequent class?"""
    count = len(labels)
    return {
        name: against_chance(round(scores.top1[name] * count / 100), labels) for name in scores.layout.targets
    }


def _about(data: Data) -> dict[str, Any]:
    return {
        "name": data.name,
        "classes": len(data.classes),
        "image_size": data.image_size,
        "train": len(data.train),
        "val": len(data.val),
        "test": len(data.test),
        "bad": len(data.bad),
        "fingerprint": data.fingerprint,
        "pictures": data.pictures,
    }


def finish(s: Setup, config: TrainConfig, interrupted: list[int]) -> None:
    """Touch the test split once for the last epoch and once for the kept one; write
    the summary, then plots.
    """
    run, cohort = s.run, s.engine.cohort
    rows = metrics.lines(run)
    progress = checkpoint.load(run, cohort, s.optimizer, s.average)
    assert progress is not None
    epochs = progress["epoch"]  # of the lines some may be lost
    same = progress["kept_epoch"] == epochs
    with Meter("Evaluating", (2 - same) * len(s.data.test) + len(s.data.val), "pictures") as meter:

        def tick(count: int) -> None:
            meter.at(meter.done + count)
            if interrupted:
                how = f"lfdeploy train --resume {typed(run.path)}"
                raise Interrupted(f"Interrupted; training is done, its evaluation is not. Go on with: {how}")

        judged = _judged(s, same, tick)
    learn_familiarity(run, s.engine, s.data, (s.mean, s.std), judged.val_logits, judged.test_logits)
    kept, val = judged.kept, judged.val
    summary = {
        "method": config.method,
        "teacher": config.teacher,
        "ships": list(cohort.layout.ships),
        "archs": run.spec["archs"],
        "epochs": epochs,
        "kept_epoch": progress["kept_epoch"],
        "data": _about(s.data),
        "val": val.document() if val else None,
        "cross_entropy": {"val": val.cross_entropy if val else None, "test": kept.cross_entropy},
        "test": kept.document(),
        "test_last": judged.last.document(),
        "chance": _chances(kept, s.data.test.labels),
        "images_per_second": s.batches.steps * s.batches.batch_size * epochs / progress["seconds"],
        "seconds": progress["seconds"],
        "parameters": cohort.sizes(),
        "device": s.engine.device,
        "gpu": torch.cuda.get_device_name() if s.engine.device == "cuda" else None,
        "cpu": instruction_set(),
        "threads": s.engine.threads or torch.get_num_threads(),
        "precision": s.precision.split()[0],
        "seed": config.seed,
        "versions": versions(),
        "reference": testified(run, s.engine, s.data, s.mean, s.std),
    }
    write_json(run.path / "summary.json", summary)
    plots.draw(run, rows, s.data, kept.predicted, cohort.layout.ships[0])


def _judged(s: Setup, same: bool, tick: Callable[[int], None]) -> Judged:
    """The engine holds the kept weights afterwards. ``same``: they are those of the last epoch."""
    test_logits: dict[str, Floats] = {}
    val_logits: dict[str, Floats] = {}
    with applied(s.average, s.engine.cohort):
        last = evaluate_cohort(s.engine, s.data.test, s.mean, s.std, tick, logits=test_logits)
    s.engine.cohort.take(s.run.tensors())
    kept, val = last, None
    if not same:
        kept = evaluate_cohort(s.engine, s.data.test, s.mean, s.std, tick, logits=test_logits)
    if len(s.data.val):
        val = evaluate_cohort(s.engine, s.data.val, s.mean, s.std, tick, logits=val_logits)
    return Judged(last, kept, val, test_logits, val_logits)
