"""ResNets for small pictures (He et al. 2016, section 4.2): a 3x3 stem and three stages of residual blocks.

Depth 6n + 2 with n basic blocks per stage, or 9n + 2 with n bottlenecks. Shortcuts that change shape are 1x1
convolutions, as in FFL's code (Kim et al. 2020), so that resnet32 for 100 classes has 472,756 weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from lfdeploy.models.backbone import Backbone, pool_linear


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: (B, C_in, H, W) to (B, C_out, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output after its last ReLU."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut: (B, C_in, H, W) to (B, 4 width, H/stride, W/stride)."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output after its last ReLU."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def group(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """``blocks`` basic blocks, the first of which has the stride."""
    rest = [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def initialise(module: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / (k k C_out))), BatchNorm 1 and 0, linear layers as the framework does."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def cifar_resnet(
    depth: int, widths: tuple[int, int, int, int] = (16, 16, 32, 64)
) -> Callable[[int], Backbone]:
    """A builder ``classes -> Backbone`` for depth 6n + 2; ``widths`` of the stem and of the three stages."""
    blocks = (depth - 2) // 6

    def build(classes: int) -> Backbone:
        stages = [group(widths[i], widths[i + 1], blocks, 1 if i == 0 else 2) for i in range(3)]
        return _network(widths[0], stages, widths[3], classes)

    return build


def cifar_bottleneck(depth: int) -> Callable[[int], Backbone]:
    """A builder ``classes -> Backbone`` for depth 9n + 2: the "ResNet-110" of ONE, OKDDip and PCL, whose last
    map has 256 channels.
    """
    blocks = (depth - 2) // 9

    def build(classes: int) -> Backbone:
        stages, channels = [], 16
        for width in (16, 32, 64):
            first = Bottleneck(channels, width, 1 if width == 16 else 2)
            channels = 4 * width
            stages.append(nn.Sequential(first, *(Bottleneck(channels, width) for _ in range(blocks - 1))))
        return _network(16, stages, channels, classes)

    return build


def _network(width: int, stages: list[nn.Sequential], channels: int, classes: int) -> Backbone:
    """A stem of that width, the stages, and a head on ``channels``."""
    stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    network = Backbone(stem, stages, pool_linear(channels, classes))
    initialise(network)
    network.residual = True
    return network
