"""The last state of a training, in one file that is replaced in one step and read without executing code."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lfdeploy.errors import LfdeployError
from lfdeploy.run import Run, typed, write_bytes
from training.average import Average
from training.cohort import Cohort

FILE = "checkpoint/last.pt"


def save(
    run: Run,
    cohort: Cohort,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    average: Average | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Weights, their average, optimiser, random state, the loss's scale and progress (plain numbers, strings,
    lists, dicts).
    """
    state = {
        "model": on_cpu(cohort.kept()),
        "optimizer": on_cpu(optimizer.state_dict()),
        "rng": torch.get_rng_state(),
        "cuda_rng": random_states(cohort),
        "progress": progress,
        "average": None if average is None else on_cpu(average.state()),
        "scaler": {} if scaler is None else scaler.state_dict(),
    }
    blob = io.BytesIO()
    torch.save(state, blob)
    (run.path / FILE).parent.mkdir(exist_ok=True)
    write_bytes(run.path / FILE, blob.getvalue())


def load(
    run: Run,
    cohort: Cohort,
    optimizer: torch.optim.Optimizer,
    average: Average | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Any] | None:
    """Restore everything and return the progress; None when nothing was saved yet."""
    state = _state(run)
    if state is None:
        return None
    try:
        cohort.take(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.take(state["average"])
        if scaler is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        for device, rng in zip(gpus_of(cohort), state["cuda_rng"], strict=False):  # the CPU has none
            torch.cuda.set_rng_state(rng, device)
        progress: dict[str, Any] = state["progress"]
    except (KeyError, TypeError, ValueError) as error:
        what = f"{run.path / FILE} is damaged, or another version of lfdeploy made it"
        raise LfdeployError(
            f"{what} ({type(error).__name__}: {error}). Train again{_or_from(run)}."
        ) from None
    return progress


def saved(run: Run) -> tuple[int, int] | None:
    """The epoch and the step, both from 0, at which the saved state goes on; None when there is none yet."""
    state = _state(run)
    return None if state is None else (state["progress"]["epoch"], state["progress"]["step"])


def _state(run: Run) -> dict[str, Any] | None:
    path = run.path / FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip and pickle errors of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise LfdeployError(f"{path} is damaged: {reason}. Train again{_or_from(run)}.") from None
    return state


def _or_from(run: Run) -> str:
    """What can be done other than to train all of it again."""
    return f", or from what it kept last: --weights {typed(run.path)}" if run.weights.exists() else ""


def random_states(cohort: nn.Module) -> list[Tensor]:
    """The random state of the GPU that a cohort lives on; none on the CPU."""
    return [torch.cuda.get_rng_state(device) for device in gpus_of(cohort)]


def gpus_of(cohort: nn.Module) -> list[torch.device]:
    """The GPU that a cohort lives on, as a list; empty on the CPU. Other GPUs are not touched."""
    devices = {parameter.device for parameter in cohort.parameters() if parameter.is_cuda}
    return sorted(devices, key=lambda device: device.index)


def on_cpu(state: Any) -> Any:
    """A nest of dicts and lists with all its tensors on the CPU: a GPU's come in one copy per dtype.

    Where all are on the CPU already, the nest itself. A checkpoint has a thousand small tensors, and each
    copy by itself would make the host wait for the GPU.
    """
    tensors = list(_tensors(state))
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return state
    return _with(state, iter(_copied(tensors)))


def _copied(tensors: list[Tensor]) -> list[Tensor]:
    """Copies on the CPU, each in memory of its own and laid out as the original."""
    flat: dict[torch.dtype, Tensor] = {}
    for dtype in {tensor.dtype for tensor in tensors}:
        rows = [tensor.detach().reshape(-1) for tensor in tensors if tensor.dtype == dtype]
        flat[dtype] = torch.cat(rows).cpu()
    start = dict.fromkeys(flat, 0)
    copies = []
    for tensor in tensors:
        end = start[tensor.dtype] + tensor.numel()
        values = flat[tensor.dtype][start[tensor.dtype] : end]
        empty = torch.empty_like(tensor, device="cpu", requires_grad=False)
        copies.append(empty.copy_(values.view(tensor.shape)))
        start[tensor.dtype] = end
    return copies


def _tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor of a nest, in order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, (dict, list, tuple)):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors(value)


def _with(state: Any, tensors: Iterator[Tensor]) -> Any:
    """The same nest with other tensors, in the order of `_tensors`."""
    if isinstance(state, Tensor):
        return next(tensors)
    if isinstance(state, dict):
        changed = copy.copy(state)  # keeps what a state_dict carries beside its items
        for key, value in state.items():
            changed[key] = _with(value, tensors)
        return changed
    if isinstance(state, (list, tuple)):
        return type(state)([_with(value, tensors) for value in state])
    return state
