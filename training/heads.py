"""New heads for trained networks: their last layer fitted to what the networks see in the training pictures.

Logistic regression on features that nothing has to learn any more takes one look at every picture. From there
all layers learn on (linear probing, then fine-tuning; Kumar et al. 2022), without random gradients first. The
end fusion of peers that begin alike begins as their mean, with a classifier fitted to that.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lfdeploy.console import Meter
from lfdeploy.data import Split
from lfdeploy.models.backbone import Backbone
from lfdeploy.models.fusion import FusedHead
from training.augment import normalise
from training.cohort import Cohort
from training.engine import Engine
from training.parts import Copy, FusedPart
from training.parts.peer import in_pieces_of

STRENGTH = 0.03  # of the fit: the inverse of its L2, for features whose mean square is 1
BATCH = 32
MOST = 20_000  # pictures that are looked at
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """Of a network and N pictures: what its last linear layer reads (N, D), and of its last map (N, C) the
    mean and the mean square over the sides, as it is and with what is below 0 cut.
    """

    read: Floats
    raw: Floats
    raw_square: Floats
    cut: Floats
    cut_square: Floats


def fit_heads(engine: Engine, split: Split, mean: Tensor, std: Tensor, archs: Sequence[str]) -> None:
    """Fit the last linear layer of the peers of some architectures on a split, in place, and all that is
    `calibrated`. A head that does not end in a linear layer stays as it is.

    Every peer but the first weighs the pictures by chance (the Bayesian bootstrap; Rubin 1981): peers with
    one head that see the same pictures would stay the same network.
    """
    engine.cohort.eval()
    split = split if len(split) <= MOST else _some(split)
    done: dict[str, Seen] = {}
    for number, network in enumerate(engine.cohort.networks):
        name = last_linear(network.head)
        if name is None:
            continue
        layer = network.head.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        if network.arch not in done:
            done[network.arch] = look(engine, network, split, mean, std)
        if network.arch in archs:
            _fit(layer, done[network.arch].read, split.labels, number)
    for part in calibrated(engine.cohort):
        _begin_as_mean(part.head, next(iter(done.values())), split.labels)
    for other in engine.cohort.parts.values():
        if isinstance(other, Copy):
            other.take_anew()
    engine.cohort.train()


def calibrated(cohort: Cohort) -> list[FusedPart]:
    """The end fusions that can begin as the mean of maps: those of networks of one architecture, which begin
    alike.
    """
    networks = cohort.networks
    if len({network.arch for network in networks}) > 1 or last_linear(networks[0].head) is None:
        return []
    fused = [part for part in cohort.parts.values() if isinstance(part, FusedPart)]
    return [part for part in fused if part.head.fusion.operator != "concat"]


def fitted(cohort: Cohort) -> list[nn.Module]:
    """What `fit_heads` leaves ready: heads that end in a linear layer, and what is calibrated."""
    heads = [network.head for network in cohort.networks if last_linear(network.head)]
    return [*heads, *calibrated(cohort)]


def last_linear(head: nn.Module) -> str | None:
    """The name of the layer that gives the logits, where it is linear and inside of the head."""
    leaves = [(name, module) for name, module in head.named_modules() if not list(module.children())]
    name, module = leaves[-1]
    return name if name and isinstance(module, nn.Linear) else None


def look(engine: Engine, network: Backbone, split: Split, mean: Tensor, std: Tensor) -> Seen:
    """One look at every picture, as evaluation sees it."""
    body, name = copy.deepcopy(network.head), last_linear(network.head)
    assert name is not None
    parent, _, child = name.rpartition(".")
    setattr(body.get_submodule(parent), child, nn.Identity())

    def all_of(images: Tensor) -> Tensor:
        rows = []
        for few in in_pieces_of(images, 4):
            last = network.last_map(few)
            cut = last.clamp_min(0)
            sides = [each.mean((2, 3)) for each in (last, last.square(), cut, cut.square())]
            rows.append(torch.cat([body(last), *sides], 1))
        return torch.cat(rows)

    found: list[Tensor] = []
    with torch.inference_mode(), Meter("Fitting heads", len(split), "pictures") as meter:
        for images, labels in split.batches(BATCH):
            pixels = torch.from_numpy(np.ascontiguousarray(images)).to(mean.device)
            found.append(engine.in_pieces(all_of, normalise(pixels, mean, std)).float().cpu())
            meter.at(meter.done + len(labels))
        channels = int(network.last_map(normalise(pixels[:1], mean, std)).shape[1])
    whole = torch.cat(found)
    widths = [whole.shape[1] - 4 * channels, *[channels] * 4]
    return Seen(*(each.numpy() for each in torch.split(whole, widths, 1)))


def _some(split: Split) -> Split:
    """`MOST` pictures, evenly over the split, with all that its classes need."""
    first = np.unique(split.labels, return_index=True)[1]
    return split.take(np.union1d(first, np.linspace(0, len(split) - 1, MOST).astype(np.int64)))


def _fit(layer: nn.Linear, seen: Floats, labels: NDArray[np.int64], number: int = 0) -> None:
    """Multinomial logistic regression, all classes being there; number 0 weighs all pictures alike."""
    from sklearn.linear_model import LogisticRegression

    strength = STRENGTH / max(float(np.square(seen).mean()), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may not have converged: it is a start
        chance = np.random.default_rng(number).exponential(size=len(seen)) if number else None
        fitted = LogisticRegression(C=strength, max_iter=500).fit(seen, labels, sample_weight=chance)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # of two classes only the second's are kept
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    _give(layer.weight, weight)
    _give(layer.bias, bias)


@torch.no_grad()
def _begin_as_mean(head: FusedHead, seen: Seen, labels: NDArray[np.int64]) -> None:
    """Let a fusion give the mean of equal maps, and its classifier answer to that."""
    fusion, many = head.fusion, len(head.fusion.channels)
    layers = list(fusion.layers)
    if fusion.operator == "dwpw":
        depthwise, norm = layers[0], layers[1]
        assert isinstance(depthwise, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        depthwise.weight.zero_()
        depthwise.weight[:, 0, 1, 1] = 1
        _pass_on(norm, np.tile(seen.raw.mean(0), many), np.tile(seen.raw_square.mean(0), many))
    if fusion.operator in ("dwpw", "pw"):
        pointwise, norm = layers[-3], layers[-2]
        assert isinstance(pointwise, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        each = torch.eye(fusion.out_channels, device=pointwise.weight.device) / many
        pointwise.weight.copy_(each.repeat(1, many)[:, :, None, None])
        cut = fusion.operator == "dwpw"  # by the activation before
        maps, squares = (seen.cut, seen.cut_square) if cut else (seen.raw, seen.raw_square)
        _pass_on(norm, maps.mean(0), squares.mean(0))
    _fit(head.classifier, seen.raw if fusion.operator == "sum" else seen.cut, labels)


def _pass_on(norm: nn.BatchNorm2d, mean: Floats, square: Floats) -> None:
    """Let a normalisation change nothing of maps with this mean and mean square."""
    variance = np.maximum(square - mean**2, 0)
    for tensor, value in (
        (norm.running_mean, mean), (norm.running_var, variance),
        (norm.weight, np.sqrt(variance + norm.eps)), (norm.bias, mean),
    ):  # fmt: skip
        _give(tensor, value)


@torch.no_grad()
def _give(tensor: Tensor | None, value: NDArray[np.floating]) -> None:
    if tensor is not None:
        tensor.copy_(torch.from_numpy(value).to(tensor.dtype))
