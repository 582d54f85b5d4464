"""All of a run as one module: the peers, the fused classifier and the ensemble,
each backbone computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lfdeploy.models.backbone import Backbone
from lfdeploy.models.deploy import Classifier, build_network, network_of
from lfdeploy.models.fusion import Fused, FusedHead
from lfdeploy.models.targets import FUSED, NETWORK, Layout, layout_of

ALL = "all"  # the target's name


def main_of(spec: Mapping[str, Any]) -> str:
    """The target that ``logits`` and ``probabilities`` are:

    ``fused``, or ``ensemble`` where the method trains no fused one.
    """
    return layout_of(spec).main


def members_of(spec: Mapping[str, Any]) -> list[str]:
    """The other targets, in the order of their outputs ``logits_TARGET``: the peers, then the ensemble where
    it is not the main.
    """
    return [name for name in layout_of(spec).targets if name != main_of(spec)]


def member_outputs(target: str, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a manifest says of the outputs after the first two; none for any target but ``all``."""
    shape = ["batch", len(spec["classes"])]
    return (
        [{"name": f"logits_{name}", "dtype": "float32", "shape": shape} for name in members_of(spec)]
        if target == ALL
        else []
    )


class Together(nn.Module):
    """Images (B, 3, H, W) to the logits (B, K) of the main target and of each member, in the order
    of `members_of`.
    """

    def __init__(self, peers: Sequence[Backbone], head: FusedHead | None, layout: Layout) -> None:
        super().__init__()
        self.peers, self.head, self.layout = nn.ModuleList(peers), head, layout

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The fused head comes first: a peer's head may change its map in place."""
        rows = self.layout.targets
        peers = dict(zip(self.layout.networks, (cast(Backbone, peer) for peer in self.peers), strict=True))
        maps = {name: peer.last_map(images) for name, peer in peers.items()}
        logits: dict[str, Tensor] = {}
        if self.head is not None:
            fused = next(name for name, row in rows.items() if row.kind == FUSED)
            logits[fused] = self.head([maps[name] for name in rows[fused].networks])
        alone = {name: peer.head(maps[name]) for name, peer in peers.items()}
        for name, row in rows.items():
            if row.kind != FUSED:
                own = [alone[network] for network in row.networks]
                logits[name] = own[0] if row.kind == NETWORK else torch.stack(own).mean(0)
        main = self.layout.main
        return (logits[main], *(logits[name] for name in rows if name != main))


class TogetherClassifier(Classifier):
    """uint8 pixels (B, H, W, 3) to the main target's logits and probabilities, and every member's logits, all
    fp32 (B, K).
    """

    def __init__(self, network: Together, spec: Mapping[str, Any]) -> None:
        super().__init__(network, spec["mean"], spec["std"])
        self.outputs = (*Classifier.outputs, *(f"logits_{name}" for name in members_of(spec)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(logits, probabilities, logits_peer0, ...)."""
        logits, *members = (found.float() for found in self.network(self.normalised(images)))
        return logits, self.softmax(logits), *members


def build(spec: Mapping[str, Any], weights: Mapping[str, Tensor]) -> TogetherClassifier:
    """The module from a run's spec.json and the tensors of its model.safetensors, in eval mode."""
    layout = layout_of(spec)
    peers = [network_of(row, len(spec["classes"]), weights) for row in layout.networks.values()]
    fused = next((name for name, row in layout.targets.items() if row.kind == FUSED), None)
    head = cast(Fused, build_network(fused, spec, weights)).head if fused else None
    return TogetherClassifier(Together(peers, head, layout), spec).eval()
