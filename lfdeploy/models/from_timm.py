"""Networks of timm, by its names: its feature interface gives the layers, a linear layer is put on
the last map.

Only networks that are a sequence of layers giving maps (B, C, H, W) can be cut; others are refused by name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.models.backbone import Backbone, pool_linear

STAGES = 4  # as many as torchvision's networks have


def known(name: str) -> str:
    """The name, if timm has it; raises `UsageError` where it has not, or is not installed."""
    if not find_spec("timm"):
        raise UsageError("--arch timm:NAME needs timm, which is not installed. Run: pip install timm")
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 1)
        guess = f" Did you mean 'timm:{near[0]}'?" if near else ""
        raise UsageError(f"timm has no network '{name}'.{guess} timm.list_models() names all.")
    return name


def network_of(name: str) -> Callable[[int], Backbone]:
    """A builder ``classes -> Backbone`` for a network of timm."""

    def build(classes: int) -> Backbone:
        import timm

        try:
            net: Any = timm.create_model(name, pretrained=False, features_only=True)
            _part_norms(net)
            groups = _by_side(_layers(net), next(net.parameters()).device)
            channels = net.feature_info.channels()[-1]
        except Exception as error:  # timm raises many kinds for what it cannot cut
            raise _refusal(name, str(error).splitlines()[0] if str(error) else type(error).__name__) from None
        if len(groups) <= STAGES:  # the first stage begins without shrinking the map
            groups = [groups[0][:-1], groups[0][-1:], *groups[1:]]
        if len(groups) < STAGES or not groups[0]:
            raise _refusal(name, f"its map shrinks {len(groups) - 1} times")
        stem = [layer for group in groups[:-STAGES] for layer in group]
        stages = [nn.Sequential(*group) for group in groups[-STAGES:]]
        return Backbone(nn.Sequential(*stem), stages, pool_linear(channels, classes))

    return build


def timms_names(name: str) -> list[str]:
    """Of what timm's feature interface of a network holds, in its order, but for counters."""
    import timm

    with torch.random.fork_rng(devices=[]):
        net = timm.create_model(name, pretrained=False, features_only=True)
    return [key for key in net.state_dict() if not key.endswith("num_batches_tracked")]


def timms_pixels(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pictures that timm's weights of a network were trained on."""
    import timm

    told = timm.get_pretrained_cfg(name)
    if told is None:
        return list(timm.data.IMAGENET_DEFAULT_MEAN), list(timm.data.IMAGENET_DEFAULT_STD)
    return list(told.mean), list(told.std)


def timms_weights(name: str) -> dict[str, torch.Tensor]:
    """The weights that timm knows for a network, downloaded by timm or from its cache.

    Raises `LfdeployError` where there are none, or they cannot be had.
    """
    import timm

    told = timm.get_pretrained_cfg(name)
    place = told and (told.hf_hub_id or told.url)
    if not place:
        raise LfdeployError(f"timm has no weights of {name}. Give a file or a run to --weights.")
    say(f"timm's weights of {name}: {place}")
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # of the hub's client and of the network there are many kinds
        why = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        fetch = f"Fetch model.safetensors of {place} elsewhere, and give it to --weights"
        raise LfdeployError(f"timm could not load its weights of {name} ({why}). {fetch}.") from None


def _refusal(name: str, why: str) -> UsageError:
    return UsageError(
        f"timm:{name} cannot be cut into stages that give maps ({why[:120]}). Choose another: lfdeploy "
        "list archs"
    )


def _part_norms(net: nn.Module) -> None:
    """timm's BatchNorm with an activation in it becomes the two layers that it is, in place: a norm of
    PyTorch's own is folded into its convolution in full precision.
    """
    from timm.layers.norm_act import BatchNormAct2d

    for name, child in list(net.named_children()):
        if not isinstance(child, BatchNormAct2d):
            _part_norms(child)
            continue
        norm = nn.BatchNorm2d(child.num_features, child.eps, child.momentum)
        norm.weight, norm.bias = child.weight, child.bias
        norm.running_mean, norm.running_var = child.running_mean, child.running_var
        setattr(net, name, nn.Sequential(OrderedDict(norm=norm, drop=child.drop, act=child.act)))


def _layers(net: Any) -> list[nn.Module]:
    """The layers in the order in which they are applied; a sequence of blocks counts as its blocks."""
    layers: list[nn.Module] = []
    for name, child in net.named_children():
        layers += list(child) if name == "blocks" else [child]
    return layers


def _by_side(layers: list[nn.Module], device: torch.device) -> list[list[nn.Module]]:
    """The layers in groups, each of which begins with what shrinks the map; raises where one gives no
    square map.
    """
    x = torch.zeros(1, 3, 128, 128, device=device)
    groups: list[list[nn.Module]] = [[]]
    with torch.no_grad():
        for layer in layers:
            side = x.shape[2]
            training = layer.training
            x = layer.eval()(x)
            layer.train(training)
            if x.ndim != 4 or x.shape[2] != x.shape[3]:
                raise ValueError(f"a layer gives {tuple(x.shape)}")
            if x.shape[2] < side and groups[-1]:
                groups.append([])
            groups[-1].append(layer)
    return groups
