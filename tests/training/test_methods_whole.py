"""Every method the whole way: trained, interrupted and resumed to the same bits,
exported with a passing gate. Long: marked slow.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import export, verify
from lfdeploy.artifact import read
from lfdeploy.config import ExportConfig, TrainConfig
from lfdeploy.errors import Interrupted
from lfdeploy.models.targets import layout_of
from lfdeploy.run import Run
from training import train
from training.engine import Engine
from training.methods import METHODS

pytestmark = pytest.mark.slow
CASES = [(method, ()) for method in METHODS]
CASES += [
    ("kdcl", (("target", "general"),)),
    ("lfmkd", (("aux_of", "peer"),)),
    ("lfmkd", (("knowledge", "both"), ("attn", "bilinear"))),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes told apart by colour, 240 training pictures of 16 px, 60 to test."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {"classes": np.array(["red", "green", "blue"])}
    for split, count in (("train", 240), ("test", 60)):
        labels = np.arange(count) % 3
        colours = 60 + 90 * np.eye(3, dtype=np.int64)[labels][:, None, None, :]
        arrays[f"{split}_x"] = (colours + draw.integers(-60, 60, (count, 16, 16, 3))).astype(np.uint8)
        arrays[f"{split}_y"] = labels
    place = tmp_path_factory.mktemp("data") / "colours.npz"
    np.savez(place, **arrays)
    return place


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = TrainConfig(
        data=str(data), arch="resnet14", peers=1, method="independent", epochs=2, batch_size=32, lr=0.05
    )
    return train(config, "teacher", tmp_path_factory.mktemp("teacher"))


def interrupted_at(number: int, patch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the step of that number, counted from 1."""
    step, count = Engine.step, iter(range(1, 1000))

    def counted(self: Engine, *args: Any) -> Any:
        if next(count) == number:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args)

    patch.setattr(Engine, "step", counted)


def named(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(choice for _, choice in value)


@pytest.mark.parametrize(("method", "options"), CASES, ids=named)
@pytest.mark.parametrize("arch", ["resnet8", pytest.param("wrn16_2", marks=pytest.mark.wide)])
def test_the_whole_way(
    arch: str,
    method: str,
    options: tuple[tuple[str, str], ...],
    data: Path,
    teacher: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TrainConfig(
        data=str(data),
        arch=arch,
        method=method,
        option=options,
        epochs=2,
        batch_size=32,
        lr=0.05,
        precision="fp32",
        teacher=str(teacher.path) if METHODS[method].teachers else None,
    )
    run = train(config, "whole", tmp_path)
    with monkeypatch.context() as patch:
        interrupted_at(9, patch)  # in the second epoch
        with pytest.raises(Interrupted):
            train(config, "cut", tmp_path)
    resumed = train(config, runs=tmp_path, resume=Run(tmp_path / "cut"))
    one, other = run.tensors(), resumed.tensors()
    assert set(one) == set(other)
    if run.read("summary.json")["device"] == "cpu":  # what CUDA gives is tests/gpu's to find
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
        assert run.read("summary.json")["test"] == resumed.read("summary.json")["test"]
    for target in layout_of(run.spec).ships:
        artifact = export(ExportConfig(target=target), run)[0]
        assert artifact.verdict == "pass", artifact.manifest["parity"]["reason"]
        assert verify(read(artifact.path), run=str(run.path)).verdict == "pass"


def test_one_teacher_several_students_and_several_teachers(data: Path, teacher: Run, tmp_path: Path) -> None:
    common: dict[str, Any] = {"data": str(data), "arch": "resnet8", "epochs": 1, "batch_size": 32, "lr": 0.05}
    first = train(TrainConfig(method="kd", teacher=str(teacher.path), peers=2, **common), "two", tmp_path)
    assert list(layout_of(first.spec).targets) == ["peer0", "peer1", "ensemble"]
    both = ",".join(str(run.path) for run in (teacher, first))
    second = train(
        TrainConfig(method="kd", teacher=both, option=(("relative", "1"),), **common), "taught", tmp_path
    )
    assert not any(name.startswith("teacher") for name in second.tensors())
    artifact = export(ExportConfig(all=True, single_file=True), first)[0]
    assert artifact.verdict == "pass"
