"""`--deterministic`: the switch is on while a training runs and as it was afterwards; a CPU needs none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from lfdeploy.config import TrainConfig
from lfdeploy.errors import LfdeployError
from lfdeploy.run import Run
from lfdeploy.stored_config import stored
from training.engine import Engine
from training.precision import CUBLAS, reproducible


def switches() -> tuple[bool, bool, str | None]:
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warns, os.environ.get(CUBLAS)


def test_the_flag(
    coloured_npz: Path, tmp_path: Path, lf: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On within a step; in config.json, from which it is repeated; and the weights are a CPU's as ever."""
    monkeypatch.delenv(CUBLAS, raising=False)
    before, within, step = switches(), set(), Engine.step

    def looking(self: Engine, *args: Any) -> Any:
        within.add(switches())
        return step(self, *args)

    monkeypatch.setattr(Engine, "step", looking)
    small = [
        "--data",
        coloured_npz,
        "--arch",
        "resnet8",
        "--epochs",
        1,
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    words = ["--runs", tmp_path, "--name"]
    assert lf("train", *small, *words, "plain").exit_code == 0
    assert within == {before}
    within.clear()
    assert lf("train", *small, "--deterministic", *words, "one").exit_code == 0
    assert within == {(True, False, ":4096:8")} and switches() == before
    config = Run(tmp_path / "one").read("config.json")
    assert config["deterministic"] is True
    weights = [Run(tmp_path / name).weights.read_bytes() for name in ("plain", "one")]
    assert weights[0] == weights[1]
    assert stored(config) == TrainConfig(**config | {"option": ()})
    del config["deterministic"]
    assert stored(config).deterministic is False  # of a run of before


def test_it_is_set_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS, ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = switches()
        with pytest.raises(ValueError, match=r"True, False, ':16:8'"), reproducible(True):
            raise ValueError(switches())
        assert switches() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_operation_without_such_a_kernel() -> None:
    """What PyTorch itself says of one becomes a line with what to do; other errors stay as they are."""
    with pytest.raises(LfdeployError, match="Train without --deterministic"), reproducible(True):
        torch.empty(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    with pytest.raises(RuntimeError, match="shape"), reproducible(True):
        torch.zeros(2) @ torch.zeros(3, 3).reshape(9, 2)
