"""EfficientNet-Lite: EfficientNet for devices whose arithmetic is narrow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lfdeploy.models.backbone import Backbone
from lfdeploy.models.from_torchvision import pool_flatten_classifier, sliced


def efficientnet_lite0() -> Callable[[int], Backbone]:
    """EfficientNet-B0 without squeeze and excitation and with ReLU6 for SiLU, which int8 and small devices
    bear better. It pads and normalises as TensorFlow does, where its published weights come from.
    """

    def change(net: Any) -> None:
        for module in list(net.modules()):
            for child, layer in list(module.named_children()):
                if type(layer).__name__ == "SqueezeExcitation":
                    setattr(module, child, nn.Identity())
                elif isinstance(layer, nn.SiLU):
                    setattr(module, child, nn.ReLU6())
                elif isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                    setattr(module, child, HalvingConv2d.like(layer))
                elif isinstance(layer, nn.BatchNorm2d):
                    layer.eps = 1e-3

    return sliced("efficientnet_b0", (2, 3, 4, 6), pool_flatten_classifier, change)


class HalvingConv2d(nn.Conv2d):
    """A convolution of stride 2 whose output has half the side, rounded up. Of an odd number of zeros that
    are missing the last stands behind (TensorFlow's padding "same").
    """

    @classmethod
    def like(cls, conv: nn.Conv2d) -> HalvingConv2d:
        """One in the place of a convolution of stride 2 without bias, with its weights."""
        made = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size[0], stride=2, groups=conv.groups, bias=False
        )
        made.weight = conv.weight
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / 2, W / 2), rounded up."""
        missing = [self.kernel_size[0] - (2 if side % 2 == 0 else 1) for side in (x.shape[3], x.shape[2])]
        pads = [part for zeros in missing for part in (zeros // 2, zeros - zeros // 2)]
        x = nn.functional.pad(x, pads)
        return nn.functional.conv2d(x, self.weight, self.bias, 2, groups=self.groups)
