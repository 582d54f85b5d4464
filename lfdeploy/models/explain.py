"""Class activation maps (Zhou et al. 2016, section 2) as an output of the graph: which places speak for the
top class.

Where the classifier is global average pooling and one linear layer, pooling and weighting change places: the
linear layer applied at every place of the last map gives a map of evidence in the unit of the logits, whose
mean is the top logit. That is exact, not an approximation, and anyone who has the file can check it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfdeploy.errors import LfdeployError
from lfdeploy.models.backbone import Backbone, Mean, Vector
from lfdeploy.models.deploy import Classifier
from lfdeploy.models.from_torchvision import ConvPool
from lfdeploy.models.fusion import Ensemble, Fused
from lfdeploy.models.targets import layout_of

HEATMAP = "heatmap"
POOLS = (nn.AdaptiveAvgPool2d, Mean)


def output_of(side: int) -> list[dict[str, Any]]:
    """What a manifest says of the output."""
    return [{"name": HEATMAP, "dtype": "float32", "shape": ["batch", side, side]}]


def explains(manifest: Any) -> bool:
    """Whether a manifest has the output."""
    return any(output["name"] == HEATMAP for output in manifest.get("outputs", ()))


def _leaves(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential):
        return [leaf for child in module for leaf in _leaves(child)]
    if isinstance(module, ConvPool):
        return [module.conv, nn.AdaptiveAvgPool2d(1), Vector(), module.fc]
    return [module]


class Cut(nn.Module):
    """A backbone with its head cut before the pooling: images (B, 3, H, W) to logits (B, K) and the map
    (B, C, h, w) that is pooled.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        leaves = _leaves(backbone.head)
        at = next((i for i, leaf in enumerate(leaves) if isinstance(leaf, POOLS)), len(leaves))
        behind = [
            leaf for leaf in leaves[at + 1 :] if not isinstance(leaf, (Vector, nn.Dropout, nn.Identity))
        ]
        if len(behind) != 1 or not isinstance(behind[0], nn.Linear):
            raise LfdeployError("its classifier is not average pooling and one linear layer")
        self.backbone, self.before, self.after = (
            backbone,
            nn.Sequential(*_leaves_of(leaves[:at])),
            nn.Sequential(*leaves[at:]),
        )

    @property
    def linear(self) -> nn.Linear:
        """The classifier's weights."""
        return cast(nn.Linear, self.after[-1])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, map)."""
        last = self.before(self.backbone.last_map(images))
        return self.after(last), last


def _leaves_of(leaves: Sequence[nn.Module]) -> list[nn.Module]:
    """The first of them may work in place on what it is given; here the map is read again, so none does."""
    made = []
    for leaf in leaves:
        if getattr(leaf, "inplace", False):
            leaf = copy.deepcopy(leaf)
            leaf.inplace = False  # type: ignore[assignment]
        made.append(leaf)
    return made


class CutFused(nn.Module):
    """The fused classifier: its map is the end fusion's."""

    def __init__(self, whole: Fused) -> None:
        super().__init__()
        self.whole = whole

    @property
    def linear(self) -> nn.Linear:
        """The classifier's weights."""
        return self.whole.head.classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, map)."""
        fused = self.whole.head.fusion([cast(Backbone, peer).last_map(images) for peer in self.whole.peers])
        return self.linear(fused.mean((2, 3))), fused


class ExplainedClassifier(Classifier):
    """As `Classifier`, with a third output: the evidence (B, h, w) for the top class, fp32, whose mean is
    its logit.

    An ensemble's is the mean of its peers' maps, brought to the smallest of their sides by average pooling.
    """

    outputs = (*Classifier.outputs, HEATMAP)

    def __init__(self, parts: Sequence[Cut | CutFused], whole: Classifier) -> None:
        nn.Module.__init__(self)
        self.network = nn.ModuleList(parts)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", whole.scale)
        self.register_buffer("shift", whole.shift)
        self.dtype, self.temperature = whole.dtype, whole.temperature

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(logits, probabilities, heatmap)."""
        x = self.normalised(images)
        parts = [cast(Cut, part) for part in cast(nn.ModuleList, self.network)]
        found = [part(x) for part in parts]
        logits = (found[0][0] if len(found) == 1 else torch.stack([own for own, _ in found]).mean(0)).float()
        top = logits.argmax(1)
        side = min(last.shape[2] for _, last in found)
        maps = []
        for part, (_, last) in zip(parts, found, strict=True):
            weight, bias = part.linear.weight.float()[top], part.linear.bias.float()[top]
            heat = (last.float() * weight[:, :, None, None]).sum(1) + bias[:, None, None]
            maps.append(
                heat if last.shape[2] == side else F.avg_pool2d(heat[:, None], last.shape[2] // side)[:, 0]
            )
        return logits, self.softmax(logits), maps[0] if len(maps) == 1 else torch.stack(maps).mean(0)


def explained(classifier: Classifier, target: str, spec: Mapping[str, Any]) -> ExplainedClassifier:
    """The classifier with the map as its third output, sharing its modules.

    Raises `LfdeployError` where it has no exact map.

    ``spec``: the run's, which names the architectures of the target.
    """
    network = classifier.network
    try:
        if isinstance(network, Fused):
            return ExplainedClassifier([CutFused(network)], classifier).eval()
        peers = (
            [cast(Backbone, peer) for peer in network.peers]
            if isinstance(network, Ensemble)
            else [cast(Backbone, network)]
        )
        return ExplainedClassifier([Cut(peer) for peer in peers], classifier).eval()
    except LfdeployError as error:
        names = " + ".join(dict.fromkeys(layout_of(spec).archs(target)))
        raise LfdeployError(
            f"{target} of {names} has no exact heat map: {error}. Export it without --explain."
        ) from None


def side_of(classifier: ExplainedClassifier, size: int) -> int:
    """Side h = w of the heat map for pictures of ``size``.

    Raises `LfdeployError` where peers' maps do not fit into one another.
    """
    with torch.no_grad():
        x = classifier.normalised(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        sides = [int(part(x)[1].shape[2]) for part in cast(nn.ModuleList, classifier.network)]
    if any(side % min(sides) for side in sides):
        raise LfdeployError(
            f"The peers' maps have sides {sides}, which do not divide; the ensemble has no exact heat "
            "map. Export a peer."
        )
    return min(sides)
