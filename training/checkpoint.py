"""The last state of a training, in one file that is replaced in one step and read without executing code."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import nn

from lfdeploy.errors import LfdeployError
from lfdeploy.run import Run, write_bytes

FILE = "checkpoint/last.pt"


def save(run: Run, cohort: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
    """Weights, optimiser, random state and progress (plain numbers, strings, lists and dicts)."""
    state = {
        "model": cohort.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "progress": progress,
    }
    blob = io.BytesIO()
    torch.save(state, blob)
    (run.path / FILE).parent.mkdir(exist_ok=True)
    write_bytes(run.path / FILE, blob.getvalue())


def load(run: Run, cohort: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restore everything and return the progress; None when nothing was saved yet."""
    state = _state(run)
    if state is None:
        return None
    cohort.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    progress: dict[str, Any] = state["progress"]
    return progress


def saved(run: Run) -> tuple[int, int] | None:
    """The epoch and the step, both from 0, at which the saved state goes on; None when nothing was saved yet."""
    state = _state(run)
    return None if state is None else (state["progress"]["epoch"], state["progress"]["step"])


def _state(run: Run) -> dict[str, Any] | None:
    path = run.path / FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip and pickle errors of many kinds
        raise LfdeployError(f"{path} is damaged: {error}. Train again.") from None
    return state
