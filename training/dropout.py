"""Dropout and stochastic depth with random numbers of their own, which follow from a seed and the step.

Torch's draw from one generator in the order of the calls: parts in threads would then learn something else
each time. With these any order gives the same, and a resumed training draws what the whole one would have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEPS = 1 << 32


class Drop(nn.Module):
    """Zeroes a share ``p`` of the values, or with ``rows`` of the pictures, and scales up the others."""

    def __init__(self, p: float, seed: int, rows: bool = False) -> None:
        super().__init__()
        self.p, self.seed, self.rows, self.step = p, seed, rows, 0

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; in evaluation the tensor itself."""
        if not self.training or self.p == 0:
            return x
        random = torch.Generator(x.device).manual_seed((self.seed * 0x9E3779B1 + self.step) % STEPS)
        shape = (len(x), *(1 for _ in x.shape[1:])) if self.rows else x.shape
        kept = torch.rand(shape, generator=random, device=x.device) >= self.p
        return x * kept.to(x.dtype) / (1 - self.p)


def with_own_random(network: nn.Module, seed: int) -> None:
    """Replace what draws random numbers in a network, in place; each place has a sequence of its own."""
    places = [(name, module) for name, module in network.named_modules() if _draws(module)]
    for number, (name, module) in enumerate(places):
        parent, _, child = name.rpartition(".")
        rows = not isinstance(module, nn.Dropout)
        drop = Drop(float(module.p), seed * 1009 + number, rows)
        setattr(network.get_submodule(parent), child, drop)


def at_step(cohort: nn.Module, step: int) -> None:
    """Let every place draw what belongs to a step, counted from 0 over the whole training."""
    for module in cohort.modules():
        if isinstance(module, Drop):
            module.step = step


def _draws(module: nn.Module) -> bool:
    depth = type(module).__name__ == "StochasticDepth" and getattr(module, "mode", "") == "row"
    return type(module) is nn.Dropout or depth
