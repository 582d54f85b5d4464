"""The table of architectures. To add one: a builder ``classes -> Backbone`` in a
file here, and a row below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lfdeploy.errors import choose

if TYPE_CHECKING:
    from lfdeploy.models.backbone import Backbone


@dataclass(frozen=True)
class Architecture:
    """A row: what it is, its builder (imported only when asked for), and the largest default image size.

    ``family``: what the rows that one function builds have in common.
    """

    about: str
    builder: Callable[[], Callable[[int], Backbone]]
    largest: int = 224
    family: str = ""

    def __call__(self, classes: int) -> Backbone:
        """A fresh, untrained network with that many classes."""
        return self.builder()(classes)


def _row(about: str, module: str, function: str, *arguments: Any, largest: int = 224) -> Architecture:
    """A row whose builder is what a function of a module here returns for the arguments."""

    def builder() -> Callable[[int], Backbone]:
        from importlib import import_module

        made: Callable[[int], Backbone] = getattr(import_module(f"lfdeploy.models.{module}"), function)(
            *arguments
        )
        return made

    return Architecture(about, builder, largest, f"{module}.{function}")


def _small(about: str, module: str, function: str, *arguments: Any) -> Architecture:
    return _row(f"{about}, for pictures of about 32 px", module, function, *arguments, largest=64)


def _tv(about: str, function: str, *names: str) -> dict[str, Architecture]:
    """Rows of networks that torchvision has, under its own names."""
    return {name: _row(f"{about}, torchvision's", "from_torchvision", function, name) for name in names}


X4 = (32, 64, 128, 256)
ARCHITECTURES: dict[str, Architecture] = {
    **{
        f"resnet{d}": _small(f"CIFAR ResNet, {d} layers", "cifar_resnet", "cifar_resnet", d)
        for d in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"resnet{d}x4": _small(
            f"CIFAR ResNet, {d} layers, four times as wide", "cifar_resnet", "cifar_resnet", d, X4
        )
        for d in (8, 32)
    },
    "resnet110_bottleneck": _small(
        "CIFAR ResNet, 110 layers in bottlenecks", "cifar_resnet", "cifar_bottleneck", 110
    ),
    **{
        f"wrn{d}_{k}": _small(f"Wide ResNet {d}-{k}", "cifar_others", "wide_resnet", d, k)
        for d, k in ((16, 2), (16, 4), (28, 2), (28, 10), (40, 1), (40, 2), (40, 4))
    },
    "densenet40_12": _small("DenseNet-40, growth 12", "cifar_others", "cifar_densenet", 40, 12, False),
    "densenet40_12_bc": _small("DenseNet-BC-40, growth 12", "cifar_others", "cifar_densenet", 40, 12, True),
    **{
        f"vgg{d}_cifar": _small(f"VGG-{d}", "cifar_others", "cifar_vgg", d, False)
        for d in (8, 11, 13, 16, 19)
    },
    **{
        f"vgg{d}_bn_cifar": _small(f"VGG-{d} with BatchNorm", "cifar_others", "cifar_vgg", d, True)
        for d in (8, 11, 13, 16, 19)
    },
    "mobilenet_v2_cifar": _small("MobileNetV2", "from_torchvision", "mobilenet_v2_cifar"),
    "shufflenet_v2_cifar": _small(
        "ShuffleNetV2 x1.0", "from_torchvision", "shufflenet", "shufflenet_v2_x1_0", True
    ),
    "efficientnet_lite0": _row(
        "EfficientNet-Lite0: no squeeze and excitation, ReLU6", "efficientnet_lite", "efficientnet_lite0"
    ),
    **_tv("ResNet", "resnet_like", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    **_tv("ResNeXt", "resnet_like", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    **_tv("Wide ResNet", "resnet_like", "wide_resnet50_2", "wide_resnet101_2"),
    **_tv("DenseNet", "densenet", "densenet121", "densenet161", "densenet169", "densenet201"),
    **_tv("MobileNetV2", "mobilenet_v2", "mobilenet_v2"),
    **_tv("MobileNetV3", "mobilenet_v3", "mobilenet_v3_small", "mobilenet_v3_large"),
    **_tv("MNASNet", "mnasnet", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    **_tv("ShuffleNetV2", "shufflenet", *(f"shufflenet_v2_x{w}" for w in ("0_5", "1_0", "1_5", "2_0"))),
    **_tv("EfficientNet", "efficientnet", *(f"efficientnet_b{i}" for i in range(8))),
    **_tv("EfficientNetV2", "efficientnet", *(f"efficientnet_v2_{size}" for size in "sml")),
    **_tv("ConvNeXt", "convnext", "convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    **_tv("RegNetX", "regnet", *(f"regnet_x_{cost}" for cost in ("400mf", "800mf", "1_6gf", "3_2gf"))),
    **_tv("RegNetY", "regnet", *(f"regnet_y_{cost}" for cost in ("400mf", "800mf", "1_6gf", "3_2gf"))),
}

#: shorter names for rows, which runs of earlier versions hold too
ALIASES = {
    "resnext50": "resnext50_32x4d",
    "wide_resnet50": "wide_resnet50_2",
    "mnasnet": "mnasnet1_0",
    "shufflenet_v2": "shufflenet_v2_x1_0",
}


#: what stands before the name of a network that timm has
TIMM = "timm:"


def canonical(arch: str) -> str:
    """The row that a name or an alias means; raises `UsageError` with the nearest names for one that
    means none.
    """
    if arch.startswith(TIMM):
        from lfdeploy.models.from_timm import known

        return TIMM + known(arch.removeprefix(TIMM))
    return choose("architecture", ALIASES.get(arch, arch), list(ARCHITECTURES), "lfdeploy list archs")


def architecture(arch: str) -> Architecture:
    """The row of a name: the table's, or one made for a network of timm."""
    name = canonical(arch)
    if name.startswith(TIMM):
        return _row(f"timm's {name.removeprefix(TIMM)}", "from_timm", "network_of", name.removeprefix(TIMM))
    return ARCHITECTURES[name]


def create(arch: str, classes: int) -> Backbone:
    """A fresh network by its name in the table, or ``timm:NAME``."""
    network = architecture(arch)(classes)
    network.arch = canonical(arch)
    return network
