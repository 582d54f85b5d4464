"""BatchNorm over all processes of a training: torch's own refuses the CPU.

Mean and variance of a batch are those of the rows of all processes, by sums that gradients flow through.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.parts.part import wide


class _Sum(torch.autograd.Function):
    """The sum over all processes. Of each one's loss it has a part, so its gradient is a sum too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """The sum (N,) of everyone's values (N,)."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The sum of everyone's gradients."""
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class _Synced(_BatchNorm):
    """What a BatchNorm becomes; in eval mode it is the one that it was."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised (B, C, ...), by the statistics of all processes while training."""
        if not self.training:
            return super().forward(x)
        rows = wide(x).transpose(0, 1).reshape(x.shape[1], -1)
        count = rows.shape[1] * dist.get_world_size()
        mean = _sum(rows.sum(1)) / count
        variance = _sum((rows - mean[:, None]).pow(2).sum(1)) / count
        self._remember(mean.detach(), variance.detach() * count / max(1, count - 1))
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (wide(x) * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        pace = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, pace)
        self.running_var.lerp_(variance, pace)


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


@cache
def _synced(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Synced{kind.__name__}", (_Synced, kind), {})


def synchronise(module: nn.Module) -> None:
    """Let every BatchNorm of a module see the rows of all processes; weights and statistics stay its own."""
    for each in module.modules():
        if isinstance(each, _BatchNorm) and not isinstance(each, _Synced):
            each.__class__ = _synced(type(each))  # type: ignore[arg-type]
