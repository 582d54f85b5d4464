"""The processes of one training, as ``torchrun`` starts them: each takes its rows of every batch, gradients
are averaged in one message a step, and the first process alone writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lfdeploy import console
from lfdeploy.config import TrainConfig
from lfdeploy.errors import LfdeployError, Unsaid, UsageError
from lfdeploy.locks import Held, take
from lfdeploy.run import Run, typed
from training.meeting import meet, place
from training.methods.method import Method

PATIENCE = timedelta(hours=6)  # that the others have while the first process evaluates and writes


@dataclass(frozen=True)
class World:
    """Which process of how many this one is; alone unless `join` finds others."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @property
    def told(self) -> str:
        """How many processes there are, where there are several."""
        return f", {self.size} processes" if self.size > 1 else ""

    def average(self, parameters: Iterable[Tensor], stopped: bool) -> bool:
        """Replace every gradient by its mean over the processes, in one message.

        Returns whether any process is to be ``stopped``: then all are, at the same step.
        """
        if self.size == 1:
            return stopped
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flag = gradients[0].new_tensor([float(stopped)])
        flat = torch.cat([flag, *(gradient.reshape(-1) for gradient in gradients)])
        dist.all_reduce(flat)
        flat /= self.size
        start = 1
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return bool(flat[0] > 0)

    def mean(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars by name, each the mean over the processes."""
        if self.size == 1 or not sums:
            return sums
        values = torch.stack(list(sums.values()))
        dist.all_reduce(values)
        return dict(zip(sums, values / self.size, strict=True))

    def agree(self, value: Any) -> Any:
        """What the first process has, in every one."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process what the first one has in these tensors."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor.detach(), 0)

    def check_alike(self, what: str, value: object) -> None:
        """Raise `LfdeployError` in every process where one has another value than the first."""
        if self.size == 1:
            return
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value)
        other = next((rank for rank, each in enumerate(values) if each != values[0]), None)
        if other is not None:
            raise LfdeployError(f"Process {other} of this training has other {what} than the first.")

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Close the connections to the others."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = World()


def started_first() -> bool:
    """Whether this process is alone or the first of those that ``torchrun`` started; others fall silent.

    Raises `LfdeployError` where the environment says neither.
    """
    first = place()[0] == 0
    if not first:
        console.be_silent()
    return first


def join(device: str) -> World:
    """The world that ``torchrun`` put this process into, connected to the others; `ALONE` without it."""
    world = World(*place())
    if world.size == 1:
        return ALONE
    meet(device, PATIENCE)
    return world


def check_together(world: World, config: TrainConfig, method: Method) -> None:
    """Raise `UsageError` for what several processes cannot do; say what they do otherwise than one."""
    if world.size == 1:
        return
    if (config.batch_size or 1) % world.size:
        raise UsageError(
            f"--batch-size {config.batch_size} cannot be parted among {world.size} processes: take a "
            f"multiple of {world.size}."
        )
    if method.looks_across == "epochs":
        raise UsageError(f"Method {config.method} remembers every picture; it trains in one process.")
    differs = []
    if method.looks_across == "batch":
        differs.append(f"{config.method} compares the pictures of a batch, here those of one process")
    if config.mixup or config.cutmix:
        differs.append("pictures are mixed with others of their process")
    if config.balance == "weights":
        differs.append("--balance weighs the pictures of each process by themselves")
    if not config.sync_bn:
        differs.append("BatchNorm sees the pictures of one process (--sync-bn: of all)")
    for each in differs:
        console.say(f"Note: with {world.size} processes {each}.")


def lost(run: Run | None, error: RuntimeError) -> LfdeployError | None:
    """What to say where another process of this training is gone; None for an error of another kind.

    The first process says it. Where that is the one that is gone, its lock is free, and who takes it speaks.
    """
    text = str(error).lower()
    words = ("closed", "reset by peer", "refused", "broken pipe", "timed out", "nccl")
    if place()[1] == 1 or not any(word in text for word in words):
        return None
    if not started_first():
        try:
            if run is None:
                return Unsaid("")
            take(run.lock)
        except Held:
            return Unsaid("")
    how = f" Go on from its last epoch with: --resume {typed(run.path)}" if run else ""
    console.be_silent(False)
    return LfdeployError(f"Another process of this training has ended, and with it all others.{how}")
