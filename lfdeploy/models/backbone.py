"""One shape for every network: a stem, stages that each end in a feature map, and a
head that gives logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A classifier cut where methods tap it.

    ``stem`` and ``stages`` map images (B, 3, H, W) to one map (B, C_s, H_s, W_s) per stage; ``head`` maps the
    last one to logits (B, K). Whatever shrinks the map belongs to the stage that follows.
    """

    arch = ""  # its name in the table of architectures
    residual = False  # whether its stages are residual blocks

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, 3, H, W)."""
        logits: Tensor = self.head(self.last_map(images))
        return logits

    def last_map(self, images: Tensor) -> Tensor:
        """The map (B, C, H, W) that the head reads."""
        x: Tensor = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return x

    def features(self, x: Tensor, skip: int = 0) -> list[Tensor]:
        """One map per stage. With ``skip`` = k > 0, x is the output of the stem and
        the first k - 1 stages.
        """
        maps = []
        if skip == 0:
            x = self.stem(x)
        for stage in list(self.stages)[max(0, skip - 1) :]:
            x = stage(x)
            maps.append(x)
        return maps

    def shapes(self, size: int) -> list[tuple[int, int]]:
        """(channels, side) of every stage's map for square images of that size."""
        training = self.training
        self.eval()
        with torch.no_grad():
            maps = self.features(torch.zeros(1, 3, size, size))
        self.train(training)
        return [(m.shape[1], m.shape[2]) for m in maps]


class Mean(nn.Module):
    """What AdaptiveAvgPool2d(1) computes, without the strides and shape arithmetic that its trace brings."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 1, 1)."""
        return x.mean((2, 3), keepdim=True)


class Vector(nn.Module):
    """(B, C, 1, 1) to (B, C). Unlike flattening, it leaves no shape arithmetic in an exported graph."""

    def forward(self, x: Tensor) -> Tensor:
        """The map without its sides."""
        return x.squeeze((2, 3))


def pool_linear(channels: int, classes: int) -> nn.Sequential:
    """Global average pooling and a linear classifier: (B, C, H, W) to (B, K)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), Vector(), nn.Linear(channels, classes))
