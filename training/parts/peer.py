"""Networks that learn, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lfdeploy.models.backbone import Backbone
from training.parts.part import Nodes, Part


class Peer(Part):
    """A network. Gives its logits ``NAME`` (B, K), ``NAME.mapS`` of every stage it runs, ``NAME.vector``
    (B, C) if asked for.

    ``skip``: how many leading parts, the stem and then stages, are left to a `Trunk` whose output it reads.
    """

    def __init__(
        self, name: str, network: Backbone, reads: str = "view0", skip: int = 0, vector: bool = False
    ) -> None:
        super().__init__(name, (reads,))
        self.network, self.skip, self.vector = network, skip, vector

    def forward(self, x: Tensor) -> Nodes:
        """Logits, then maps."""
        maps = self.network.features(x, skip=self.skip)
        nodes = {self.name: self.network.head(maps[-1])}
        first = len(self.network.stages) - len(maps)
        nodes |= {f"{self.name}.map{first + i}": each for i, each in enumerate(maps)}
        if self.vector:
            nodes[f"{self.name}.vector"] = maps[-1].mean((2, 3))
        return nodes


class Trunk(Part):
    """The leading parts that all peers share: images to the map that they go on from, ``trunk``.

    The modules are those of the first peer, which saves them. ``scale`` multiplies the gradient that comes
    back: 1 / M makes it the mean of the peers' gradients (CL-ILR; Song and Chai 2018, section 3.2).
    """

    def __init__(self, network: Backbone, skip: int, scale: float = 1.0) -> None:
        super().__init__("trunk", ("view0",))
        self.scale = scale
        # a list: registered by the peer alone
        self._modules_of_peer = [network.stem, *list(network.stages)[: skip - 1]]

    def forward(self, x: Tensor) -> Nodes:
        """The shared map."""
        for module in self._modules_of_peer:
            x = module(x)
        return {self.name: x if self.scale == 1.0 else scaled_gradient(x, self.scale)}


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def scaled_gradient(x: Tensor, scale: float) -> Tensor:
    """The tensor itself, whose gradient is multiplied on the way back."""
    scaled: Tensor = _Scale.apply(x, scale)
    return scaled


def share_modules(networks: Sequence[Backbone], skip: int) -> None:
    """Give every network the first ``skip`` parts, the stem and then stages, of the first one."""
    for network in networks[1:]:
        if skip > 0:
            network.stem = networks[0].stem
        for stage in range(skip - 1):
            network.stages[stage] = networks[0].stages[stage]


def parameters_of(modules: Sequence[nn.Module]) -> set[int]:
    """Identities of all parameters of some modules."""
    return {id(parameter) for module in modules for parameter in module.parameters()}
