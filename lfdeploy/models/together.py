"""All of a run as one module: the peers, the fused classifier and the ensemble, each backbone computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lfdeploy.models.backbone import Backbone
from lfdeploy.models.deploy import Classifier, build_network
from lfdeploy.models.fusion import Ensemble, Fused, FusedHead

ALL = "all"  # the target's name


def main_of(spec: Mapping[str, Any]) -> str:
    """The target that ``logits`` and ``probabilities`` are: ``fused``, or ``ensemble`` where the method trains no fused one."""
    return "ensemble" if spec["fused"] is None else "fused"


def members_of(spec: Mapping[str, Any]) -> list[str]:
    """The other targets, in the order of their outputs ``logits_TARGET``: the peers, then the ensemble where it is not the main."""
    return [f"peer{i}" for i in range(len(spec["archs"]))] + (["ensemble"] if main_of(spec) == "fused" else [])


def member_outputs(target: str, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a manifest says of the outputs after the first two; none for any target but ``all``."""
    shape = ["batch", len(spec["classes"])]
    return [{"name": f"logits_{name}", "dtype": "float32", "shape": shape} for name in members_of(spec)] if target == ALL else []


class Together(nn.Module):
    """Images (B, 3, H, W) to the logits (B, K) of the main target and of each member, in the order of `members_of`."""

    def __init__(self, peers: Sequence[Backbone], head: FusedHead | None) -> None:
        super().__init__()
        self.peers, self.head = nn.ModuleList(peers), head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The fused head comes first: a peer's head may change its map in place."""
        peers = [cast(Backbone, peer) for peer in self.peers]
        maps = [peer.last_map(images) for peer in peers]
        fused = [] if self.head is None else [self.head(maps)]
        alone = [peer.head(last) for peer, last in zip(peers, maps, strict=True)]
        mean = torch.stack(alone).mean(0)
        return (*fused, *alone, mean) if fused else (mean, *alone)


class TogetherClassifier(Classifier):
    """uint8 pixels (B, H, W, 3) to the main target's logits and probabilities, and every member's logits, all fp32 (B, K)."""

    def __init__(self, network: Together, spec: Mapping[str, Any]) -> None:
        super().__init__(network, spec["mean"], spec["std"])
        self.outputs = (*Classifier.outputs, *(f"logits_{name}" for name in members_of(spec)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(logits, probabilities, logits_peer0, ...)."""
        logits, *members = (found.float() for found in self.network(self.normalised(images)))
        return logits, self.softmax(logits), *members


def build(spec: Mapping[str, Any], weights: Mapping[str, Tensor]) -> TogetherClassifier:
    """The module from a run's spec.json and the tensors of its model.safetensors, in eval mode."""
    whole = cast(Fused | Ensemble, build_network(main_of(spec), spec, weights))
    head = whole.head if isinstance(whole, Fused) else None
    network = Together([cast(Backbone, peer) for peer in whole.peers], head)
    return TogetherClassifier(network, spec).eval()
