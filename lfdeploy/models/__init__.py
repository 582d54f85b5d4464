"""The table of architectures. To add one: a builder ``classes -> Backbone`` in a file here, and a row below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lfdeploy.errors import choose

if TYPE_CHECKING:
    from lfdeploy.models.backbone import Backbone


@dataclass(frozen=True)
class Architecture:
    """A row: what it is, its builder (imported only when asked for), and the largest default image size."""

    about: str
    builder: Callable[[], Callable[[int], Backbone]]
    largest: int = 224

    def __call__(self, classes: int) -> Backbone:
        """A fresh, untrained network with that many classes."""
        return self.builder()(classes)


def _cifar(depth: int) -> Architecture:
    def builder() -> Callable[[int], Backbone]:
        from lfdeploy.models.cifar_resnet import cifar_resnet

        return cifar_resnet(depth)

    return Architecture(f"CIFAR ResNet, {depth} layers, for pictures of about 32 px", builder, largest=64)


def _resnet(name: str, about: str) -> Architecture:
    def builder() -> Callable[[int], Backbone]:
        from lfdeploy.models.torchvision import resnet_like

        return resnet_like(name)

    return Architecture(about, builder)


def _sliced(name: str, cuts: tuple[int, ...], head: str, about: str) -> Architecture:
    def builder() -> Callable[[int], Backbone]:
        from lfdeploy.models import torchvision as tv

        return tv.sliced(name, cuts, getattr(tv, head))

    return Architecture(about, builder)


def _other(family: str, name: str, about: str) -> Architecture:
    def builder() -> Callable[[int], Backbone]:
        from lfdeploy.models import torchvision as tv

        return getattr(tv, family)(name)  # type: ignore[no-any-return]

    return Architecture(about, builder)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet8": _cifar(8),
    "resnet14": _cifar(14),
    "resnet20": _cifar(20),
    "resnet32": _cifar(32),
    "resnet44": _cifar(44),
    "resnet56": _cifar(56),
    "resnet110": _cifar(110),
    "resnet18": _resnet("resnet18", "torchvision ResNet-18"),
    "resnet34": _resnet("resnet34", "torchvision ResNet-34"),
    "resnet50": _resnet("resnet50", "torchvision ResNet-50"),
    "resnext50": _resnet("resnext50_32x4d", "ResNeXt-50 32x4d"),
    "wide_resnet50": _resnet("wide_resnet50_2", "Wide ResNet-50-2"),
    "densenet121": _other("densenet", "densenet121", "DenseNet-121"),
    "mnasnet": _other("mnasnet", "mnasnet1_0", "MNASNet 1.0"),
    "mobilenet_v2": _sliced("mobilenet_v2", (2, 4, 7, 14), "pool_dropout_classifier", "MobileNetV2"),
    "mobilenet_v3_small": _sliced("mobilenet_v3_small", (1, 2, 4, 9), "pool_flatten_classifier", "MobileNetV3-Small"),
    "mobilenet_v3_large": _sliced("mobilenet_v3_large", (2, 4, 7, 13), "pool_flatten_classifier", "MobileNetV3-Large"),
    "efficientnet_b0": _sliced("efficientnet_b0", (2, 3, 4, 6), "pool_flatten_classifier", "EfficientNet-B0"),
    "shufflenet_v2": _other("shufflenet", "shufflenet_v2_x1_0", "ShuffleNetV2 x1.0"),
    "convnext_tiny": _sliced("convnext_tiny", (1, 2, 4, 6), "pool_classifier", "ConvNeXt-Tiny"),
}


def create(arch: str, classes: int) -> Backbone:
    """A fresh network by its name in the table."""
    network = ARCHITECTURES[choose("architecture", arch, list(ARCHITECTURES))](classes)
    network.arch = arch
    return network
