"""Wide ResNets, DenseNets and VGGs for small pictures, as the papers on distillation use them.

Wide ResNets and DenseNets normalise before they convolve, so the maps between their stages are sums that no
ReLU has cut; the last stage ends with the network's own last norm and ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfdeploy.models.backbone import Backbone, pool_linear
from lfdeploy.models.cifar_resnet import initialise


class PreBlock(nn.Module):
    """Norm, ReLU and convolution, twice, with a shortcut: (B, C_in, H, W) to (B,
    C_out, H/stride, W/stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways; where the shape changes, both begin behind the first norm."""
        y = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(y)
        y = self.conv2(F.relu(self.bn2(self.conv1(y))))
        total: Tensor = kept + y
        return total


def wide_resnet(depth: int, factor: int) -> Callable[[int], Backbone]:
    """Zagoruyko and Komodakis 2016, WRN-depth-factor, without dropout: depth 6n + 4, stages of 16, 32 and 64
    times the factor.
    """
    blocks = (depth - 4) // 6

    def build(classes: int) -> Backbone:
        widths = [16, 16 * factor, 32 * factor, 64 * factor]
        stages = []
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            first = PreBlock(inputs, outputs, 1 if number == 0 else 2)
            stages.append(nn.Sequential(first, *(PreBlock(outputs, outputs) for _ in range(blocks - 1))))
        stages[-1] = nn.Sequential(*stages[-1], nn.BatchNorm2d(widths[3]), nn.ReLU())
        network = Backbone(nn.Conv2d(3, 16, 3, 1, 1, bias=False), stages, pool_linear(widths[3], classes))
        initialise(network)
        network.residual = True
        return network

    return build


class DenseLayer(nn.Module):
    """New maps from all maps so far, put behind them: (B, C, H, W) to (B, C + growth, H, W)."""

    def __init__(self, inputs: int, growth: int, bottleneck: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if bottleneck:
            layers = [nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False)]
            inputs = 4 * growth
        self.layers = nn.Sequential(
            *layers, nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, growth, 3, 1, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """All maps."""
        return torch.cat([x, self.layers(x)], 1)


def cifar_densenet(depth: int, growth: int, bottleneck: bool) -> Callable[[int], Backbone]:
    """Huang et al. 2017: three dense blocks.

    With bottlenecks (BC) the stem is twice the growth and transitions halve the maps.
    """
    count = (depth - 4) // (6 if bottleneck else 3)

    def build(classes: int) -> Backbone:
        first = channels = 2 * growth if bottleneck else 16
        stages = []
        for number in range(3):
            layers: list[nn.Module] = []
            if number:
                kept = channels // 2 if bottleneck else channels
                norm, mix = nn.BatchNorm2d(channels), nn.Conv2d(channels, kept, 1, bias=False)
                layers, channels = [nn.Sequential(norm, nn.ReLU(), mix, nn.AvgPool2d(2))], kept
            for _ in range(count):
                layers.append(DenseLayer(channels, growth, bottleneck))
                channels += growth
            if number == 2:
                layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            stages.append(nn.Sequential(*layers))
        network = Backbone(nn.Conv2d(3, first, 3, 1, 1, bias=False), stages, pool_linear(channels, classes))
        initialise(network)
        return network

    return build


#: convolutions of each of the five blocks, by depth
VGG = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def cifar_vgg(depth: int, norm: bool) -> Callable[[int], Backbone]:
    """Simonyan and Zisserman 2015 with one linear layer for three, as Tian et al. 2020 use it.

    Every block but the first begins with the pooling that halves the map; the last is not pooled again
    (32 px: 32, 16, 8, 4, 2).
    """

    def build(classes: int) -> Backbone:
        blocks, channels = [], 3
        for number, (width, count) in enumerate(zip((64, 128, 256, 512, 512), VGG[depth], strict=True)):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
            for _ in range(count):
                layers += [
                    nn.Conv2d(channels, width, 3, 1, 1),
                    *([nn.BatchNorm2d(width)] if norm else []),
                    nn.ReLU(),
                ]
                channels = width
            blocks.append(nn.Sequential(*layers))
        network = Backbone(blocks[0], blocks[1:], pool_linear(512, classes))
        initialise(network)
        return network

    return build
