"""Layer fusion: maps of several peers become one (the operator of FFL; Kim et al. 2020, and its
official code).

Lives here, not in training, since the end fusion is part of the *fused* classifier that gets exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfdeploy.models.backbone import Backbone
from lfdeploy.models.cifar_resnet import initialise


def align(maps: Sequence[Tensor]) -> list[Tensor]:
    """Bring maps (B, C_m, H_m, W_m) to the smallest side among them: average pooling, else bilinear."""
    side = min(m.shape[2] for m in maps)
    aligned = []
    for m in maps:
        if m.shape[2] == side:
            aligned.append(m)
        elif m.shape[2] % side == 0:
            aligned.append(F.avg_pool2d(m, m.shape[2] // side))
        else:
            aligned.append(F.interpolate(m, size=(side, side), mode="bilinear", align_corners=False))
    return aligned


class Fusion(nn.Module):
    """One map from the peers' maps: list of (B, C_m, H, W) to (B, C_out, H, W).

    ``dwpw``: concat, 3x3 depthwise, BN, ReLU, 1x1, BN, ReLU (FFL). ``pw``: concat, 1x1, BN, ReLU. ``sum``:
    mean of the maps (DualNet; Hou et al. 2017), which needs equal channels. ``concat``: all channels side by
    side (PCL).
    """

    def __init__(self, channels: Sequence[int], operator: str = "dwpw") -> None:
        super().__init__()
        total, self.channels, self.out_channels, self.operator = (
            sum(channels),
            list(channels),
            max(channels),
            operator,
        )
        layers: list[nn.Module] = []
        if operator == "dwpw":
            layers += [
                nn.Conv2d(total, total, 3, 1, 1, groups=total, bias=False),
                nn.BatchNorm2d(total),
                nn.ReLU(),
            ]
        if operator in ("dwpw", "pw"):
            layers += [
                nn.Conv2d(total, self.out_channels, 1, bias=False),
                nn.BatchNorm2d(self.out_channels),
                nn.ReLU(),
            ]
        elif operator == "concat":
            self.out_channels = total
        elif len(set(channels)) > 1:
            raise ValueError(f"fusing by sum needs equal channels, got {list(channels)}")
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The fused map."""
        maps = align(maps)
        if self.operator == "sum":
            return torch.stack(list(maps)).mean(0)
        if self.operator == "concat":
            return torch.cat(list(maps), dim=1)
        fused: Tensor = self.layers(torch.cat(list(maps), dim=1))
        return fused


class FusedHead(nn.Module):
    """The ensemble teacher's own weights: the end fusion, global pooling and a linear classifier."""

    def __init__(self, channels: Sequence[int], classes: int, operator: str = "dwpw") -> None:
        super().__init__()
        self.fusion = Fusion(channels, operator)
        self.classifier = nn.Linear(self.fusion.out_channels, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, K) from the peers' last maps."""
        logits: Tensor = self.classifier(self.fusion(maps).mean((2, 3)))
        return logits


class Fused(nn.Module):
    """The fused classifier as deployed: images (B, 3, H, W) to logits (B, K) through all peers and the
    end fusion.
    """

    def __init__(self, peers: Sequence[Backbone], head: FusedHead) -> None:
        super().__init__()
        self.peers, self.head = nn.ModuleList(peers), head

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        maps = []
        for peer in self.peers:
            maps.append(cast(Backbone, peer).last_map(images))
        logits: Tensor = self.head(maps)
        return logits


class Ensemble(nn.Module):
    """The mean of the peers' logits."""

    def __init__(self, peers: Sequence[Backbone]) -> None:
        super().__init__()
        self.peers = nn.ModuleList(peers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return torch.stack([peer(images) for peer in self.peers]).mean(0)
