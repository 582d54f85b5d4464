"""Torchvision's classifiers as backbones: same layers, same weights' shapes, cut into stages by resolution.

Networks are built untrained here; `training.weights` gives them what was trained elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lfdeploy.models.backbone import Backbone, Vector


def _make(name: str, classes: int) -> Any:
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=classes)


def resnet_like(name: str) -> Callable[[int], Backbone]:
    """ResNets (resnext and wide_resnet too): a stem and layer1 to layer4."""

    def build(classes: int) -> Backbone:
        net = _make(name, classes)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        stages = [net.layer1, net.layer2, net.layer3, net.layer4]
        network = Backbone(stem, stages, nn.Sequential(net.avgpool, Vector(), net.fc))
        network.residual = True
        return network

    return build


def regnet(name: str) -> Callable[[int], Backbone]:
    """RegNets: a stem and four residual stages."""

    def build(classes: int) -> Backbone:
        net = _make(name, classes)
        stages = [getattr(net.trunk_output, f"block{i}") for i in (1, 2, 3, 4)]
        network = Backbone(net.stem, stages, nn.Sequential(net.avgpool, Vector(), net.fc))
        network.residual = True
        return network

    return build


def sliced(
    name: str,
    cuts: tuple[int, ...],
    head: Callable[[Any], nn.Module],
    change: Callable[[Any], None] = lambda net: None,
) -> Callable[[int], Backbone]:
    """A net whose ``features`` is a sequence: stage i is features[cuts[i] : cuts[i + 1]], the stem
    what precedes.

    ``change`` alters the net before it is cut.
    """

    def build(classes: int) -> Backbone:
        net = _make(name, classes)
        change(net)
        layers = list(net.features)
        ends = (*cuts[1:], len(layers))
        stages = [nn.Sequential(*layers[a:b]) for a, b in zip(cuts, ends, strict=True)]
        return Backbone(nn.Sequential(*layers[: cuts[0]]), stages, head(net))

    return build


def pool_flatten_classifier(net: Any) -> nn.Module:
    """Pooling, flattening, the net's own classifier (mobilenet, efficientnet)."""
    return nn.Sequential(net.avgpool, Vector(), net.classifier)


def pool_classifier(net: Any) -> nn.Module:
    """Pooling, then the net's own norm and linear layer (convnext)."""
    norm, _, linear = net.classifier
    return nn.Sequential(net.avgpool, norm, Vector(), linear)


def pool_dropout_classifier(net: Any) -> nn.Module:
    """The mean over the map and the net's own dropout and linear layer (mobilenet_v2)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), Vector(), net.classifier)


def mobilenet_v2(name: str) -> Callable[[int], Backbone]:
    """MobileNetV2, cut where its map shrinks."""
    return sliced(name, (2, 4, 7, 14), pool_dropout_classifier)


def mobilenet_v2_cifar() -> Callable[[int], Backbone]:
    """MobileNetV2 for small pictures: the stem and the first block that halved the map keep it, so 32 px end
    at 4.
    """

    def change(net: Any) -> None:
        net.features[0][0].stride = net.features[2].conv[1][0].stride = (1, 1)

    return sliced("mobilenet_v2", (2, 4, 7, 14), pool_dropout_classifier, change)


def mobilenet_v3(name: str) -> Callable[[int], Backbone]:
    """MobileNetV3, cut where its map shrinks."""
    return sliced(name, (1, 2, 4, 9) if name.endswith("small") else (2, 4, 7, 13), pool_flatten_classifier)


def efficientnet(name: str) -> Callable[[int], Backbone]:
    """EfficientNets of both versions, cut where the map shrinks."""
    return sliced(name, (2, 3, 4, 6), pool_flatten_classifier)


def convnext(name: str) -> Callable[[int], Backbone]:
    """ConvNeXts, cut where the map shrinks."""
    return sliced(name, (1, 2, 4, 6), pool_classifier)


class ConvPool(nn.Module):
    """ShuffleNet's head: a 1x1 convolution, the mean over the map, a linear layer."""

    def __init__(self, conv: nn.Module, fc: nn.Module) -> None:
        super().__init__()
        self.conv, self.fc = conv, fc

    def forward(self, x: Any) -> Any:
        """Logits (B, K)."""
        return self.fc(self.conv(x).mean([2, 3]))


def shufflenet(name: str, small: bool = False) -> Callable[[int], Backbone]:
    """ShuffleNetV2: conv1 and maxpool, stage2 to stage4, conv5 in the head.

    For small pictures conv1 keeps the map, and nothing is pooled.
    """

    def build(classes: int) -> Backbone:
        net = _make(name, classes)
        stages = [net.stage2, net.stage3, net.stage4]
        if small:
            net.conv1[0].stride = (1, 1)
        stem = net.conv1 if small else nn.Sequential(net.conv1, net.maxpool)
        return Backbone(stem, stages, ConvPool(net.conv5, net.fc))

    return build


def mnasnet(name: str) -> Callable[[int], Backbone]:
    """MNASNets: stages begin where the map shrinks. torchvision's BatchNorm forgets at 3e-4 a step, meant for
    100,000s of steps; short trainings would end with statistics of the start and logits of 1e19, so it
    forgets at 0.1, as in the other rows.
    """

    def build(classes: int) -> Backbone:
        net = _make(name, classes)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
        layers = list(net.layers)
        stages = [nn.Sequential(*layers[a:b]) for a, b in ((8, 9), (9, 10), (10, 12), (12, len(layers)))]
        return Backbone(nn.Sequential(*layers[:8]), stages, pool_dropout_classifier(net))

    return build


def densenet(name: str) -> Callable[[int], Backbone]:
    """DenseNets: a stem and four dense blocks, each behind the transition that shrinks the map."""

    def build(classes: int) -> Backbone:
        net = _make(name, classes)
        f = net.features
        stages = [
            f.denseblock1,
            *(
                nn.Sequential(getattr(f, f"transition{i}"), getattr(f, f"denseblock{i + 1}"))
                for i in (1, 2, 3)
            ),
        ]
        head = nn.Sequential(f.norm5, nn.ReLU(), nn.AdaptiveAvgPool2d(1), Vector(), net.classifier)
        return Backbone(nn.Sequential(f.conv0, f.norm0, f.relu0, f.pool0), stages, head)

    return build
