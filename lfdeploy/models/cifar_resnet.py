"""ResNets for small pictures (He et al. 2016, section 4.2): a 3x3 stem and three stages of basic blocks.

Depth 6n + 2 with n blocks per stage. Shortcuts that change shape are 1x1 convolutions, as in FFL's code
(Kim et al. 2020), so that resnet32 for 100 classes has 472,756 weights.
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
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output after its last ReLU."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


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


def cifar_resnet(depth: int) -> Callable[[int], Backbone]:
    """A builder ``classes -> Backbone`` for depth 6n + 2."""
    blocks = (depth - 2) // 6

    def build(classes: int) -> Backbone:
        stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        stages = [group(16, 16, blocks, 1), group(16, 32, blocks, 2), group(32, 64, blocks, 2)]
        network = Backbone(stem, stages, pool_linear(64, classes))
        initialise(network)
        network.residual = True
        return network

    return build
