"""What a run says of its training: accuracy and cross-entropy, by its own file, as CSV and for TensorBoard;
and what goes by them, early stopping; and labels that count by how rare they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import built, given
from click.testing import Result

from lfdeploy.config import TrainConfig
from lfdeploy.data import Split
from lfdeploy.errors import UsageError
from lfdeploy.run import Run
from training import train
from training.augment import Augment
from training.batches import Batches, class_weights
from training.engine import Engine
from training.losses import LossGraph, evaluate_graph
from training.methods import METHODS
from training.metrics import flat

SHORT: dict[str, Any] = {
    "method": "ffl",
    "arch": "resnet8",
    "epochs": 2,
    "batch_size": 32,
    "val_fraction": 0.3,
}


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """By hand, in float64."""
    z = logits.astype(np.float64)
    z = z - z.max(1, keepdims=True)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("threads", [0, 2])
def test_what_a_step_sees(threads: int) -> None:
    torch.manual_seed(0)
    options = METHODS["ffl"].options()
    cohort = built("ffl", ["resnet8"] * 2, 5, 16, options).train()
    images, labels = torch.randn(24, 3, 16, 16), torch.arange(24) % 5
    expected = cohort(given(cohort, images, labels))
    engine = Engine(cohort, METHODS["ffl"].graph(cohort, options), "cpu", torch.float32, threads)
    engine.step(given(cohort, images, labels), engine.graph.ramps(0, 2))
    engine.close()
    for name in ("peer0", "peer1", "fused", "ensemble"):
        logits = expected[name].detach().numpy()
        assert abs(float(engine.seen[f"{name}.cross_entropy"]) - cross_entropy(logits, labels.numpy())) < 1e-4
        assert float(engine.seen[f"{name}.top1"]) == float((logits.argmax(1) == labels.numpy()).mean())


def test_figures_in_every_place(coloured_npz: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainConfig(data=str(coloured_npz), csv=True, tensorboard=True, label_smoothing=0.1, **SHORT)
    run = train(config, "run", tmp_path)
    rows = rows_of(run)
    pictures = run.data(need=("test",)).test
    for target in ("peer0", "fused", "ensemble"):
        logits, _ = run.classifier(target)(torch.from_numpy(pictures.images))
        found = run.read("summary.json")["cross_entropy"]["test"][target]
        assert abs(found - cross_entropy(logits.detach().numpy(), pictures.labels)) < 1e-5
    for row in rows:
        assert set(row["train"]["top1"]) == {"peer0", "peer1", "fused", "ensemble"}
        assert set(row["val_cross_entropy"]) >= {"peer0", "peer1", "fused", "ensemble"}
        smoothed, plain = row["parts"]["ce_peer0"], row["train"]["cross_entropy"]["peer0"]
        assert smoothed != plain  # what is smoothed is no cross-entropy that can be compared
        assert abs(row["loss"] - sum(row["parts"].values())) < 1e-9
    with (run.path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    for row, line in zip(rows, table, strict=True):
        for name, value in flat(row):
            assert float(line[name]) == value
            if name != "epoch":
                at = {event.step: event.value for event in events.Scalars(name)}
                assert at[row["epoch"]] == np.float32(value)


def test_it_stops_early(tmp_path: Path) -> None:
    """Where validation was no better for so many epochs, and not before; the kept epoch is the best."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {"classes": np.array(list("abcd"))}
    arrays |= {"train_x": random.integers(0, 255, (96, 8, 8, 3), np.uint8), "train_y": np.arange(96) % 4}
    np.savez(tmp_path / "noise.npz", **arrays, test_x=arrays["train_x"][:8], test_y=arrays["train_y"][:8])
    config = TrainConfig(data=str(tmp_path / "noise.npz"), patience=2, **(SHORT | {"epochs": 30}))
    run = train(config, "run", tmp_path)
    scores = [np.mean([row["val"][name] for name in ("peer0", "peer1", "fused")]) for row in rows_of(run)]
    better = 1 + scores.index(max(scores))  # what is equal is kept, and is no better
    kept = 1 + max(range(len(scores)), key=lambda i: (scores[i], i))
    assert len(scores) == better + 2 < 30
    summary = run.read("summary.json")
    assert (summary["epochs"], summary["kept_epoch"]) == (len(scores), kept)
    with pytest.raises(UsageError, match="--patience"):
        train(TrainConfig(data=str(tmp_path / "noise.npz"), patience=2, val_fraction=0), "none", tmp_path)


def test_stopped_early_stays_stopped(tmp_path: Path, coloured_npz: Path) -> None:
    """A run whose last evaluation was interrupted trains no further epoch when it goes on."""
    config = TrainConfig(data=str(coloured_npz), patience=1, **(SHORT | {"epochs": 30, "lr": 5.0}))
    run = train(config, "run", tmp_path)
    rows, weights = rows_of(run), run.weights.read_bytes()
    assert len(rows) < 30
    (run.path / "summary.json").unlink()
    train(config, resume=run)
    assert rows_of(run) == rows and run.weights.read_bytes() == weights


def test_weights_of_classes() -> None:
    labels = np.array([0] * 6 + [2] * 3 + [3])
    weights = class_weights(labels)
    assert weights[1] == 0
    totals = {label: weights[labels][labels == label].sum() for label in (0, 2, 3)}
    assert np.allclose(list(totals.values()), 10 / 3) and np.isclose(weights[labels].mean(), 1)


def test_a_weighted_loss() -> None:
    """Against sums by hand: rare classes count by their weights, the rest of the loss as before."""
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(8, 3)), np.array([0, 0, 0, 0, 0, 1, 1, 2])
    weights = class_weights(labels)
    nodes = {"peer0": torch.from_numpy(logits), "labels": torch.from_numpy(labels)}
    graph = LossGraph({"peer0": 1.0}, class_weights=torch.from_numpy(weights))
    found = float(evaluate_graph(graph, nodes, {})["ce_peer0"])
    each = [cross_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(8)]
    expected = float(np.average(each, weights=weights[labels]))
    assert abs(found - expected) < 1e-12


def test_balanced_sampling() -> None:
    """All classes equally often, others in each epoch, and the same in each run."""
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    split = Split(np.zeros((1000, 8, 8, 3), np.uint8), labels, "digest")

    def drawn(epoch: int) -> list[int]:
        batches = Batches(split, 50, Augment(0, False, 0), 3, "cpu", balanced=True)
        return [int(i) for batch in batches.epoch(epoch) for i in batch.index]

    first = drawn(0)
    counts = np.bincount(labels[first])
    assert (abs(counts - 333) < 70).all()  # more than four standard deviations
    assert first == drawn(0) != drawn(1)


@pytest.mark.parametrize(
    ("words", "how"), [([], "none"), (["--balance"], "weights"), (["--balance", "sampling"], "sampling")]
)
def test_the_flag(
    words: list[str], how: str, lf: Callable[..., Result], coloured_npz: Path, tmp_path: Path
) -> None:
    done = lf("train", *words, "--data", coloured_npz, "--arch", "resnet8", "--epochs", 1, "--runs", tmp_path)
    assert done.exit_code == 0
    assert Run(tmp_path / "latest").read("config.json")["balance"] == how


def test_help_all_leaves_nothing_out(lf: Callable[..., Result]) -> None:
    short, whole = lf("train", "--help").stdout, lf("train", "--help-all").stdout
    assert "--patience" not in short and "--help-all" in short
    assert all(flag in whole for flag in ("--patience", "--tensorboard", "--optimizer", "--epochs"))
