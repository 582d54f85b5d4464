"""Networks that learn, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lfdeploy.models.backbone import Backbone
from training.parts.part import Link, Nodes, Part, begins_in_place, halves, link_of

AT_ONCE = 4  # pictures in a frozen part


class Peer(Part):
    """A network. Gives its logits ``NAME`` (B, K), ``NAME.mapS`` of every stage it runs, ``NAME.vector``
    (B, C) if asked for.

    ``skip``: how many leading parts, the stem and then stages, are left to a `Trunk` whose output it reads.
    ``frozen``: how many of them stay as they are, statistics too.
    """

    def __init__(
        self,
        name: str,
        network: Backbone,
        reads: str = "view0",
        skip: int = 0,
        vector: bool = False,
        frozen: int = 0,
    ) -> None:
        super().__init__(name, (reads,))
        self.network, self.skip, self.vector, self.frozen = network, skip, vector, frozen
        self.hold(False)

    @property
    def leading(self) -> list[nn.Module]:
        """The stem and the stages, all that can be frozen."""
        return [self.network.stem, *self.network.stages]

    def hold(self, held: bool) -> None:
        """Keep all but the head as it is, statistics too, or let learn what is not frozen for good."""
        for number, module in enumerate(self.leading):
            learns = not held and number >= self.frozen
            module.requires_grad_(learns)
        self.held = held
        self.train()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; what does not learn stays in evaluation."""
        super().train(mode)
        for module in self.leading if self.held else self.leading[: self.frozen]:
            module.eval()
        return self

    def forward(self, x: Tensor) -> Nodes:
        """Logits, then maps."""
        frozen = [] if self.skip else frozen_maps(self.leading[: self.frozen], x)
        x = frozen[-1] if frozen else x
        maps = frozen[1:] + self.network.features(x, skip=max(self.skip, self.frozen))
        nodes = self._end(maps[-1] if maps else x)  # or all is frozen, and the trunk's
        first = len(self.network.stages) - len(maps)
        return nodes | {f"{self.name}.map{first + i}": each for i, each in enumerate(maps)}

    def _end(self, last: Tensor) -> Nodes:
        nodes = {self.name: self.network.head(last)}
        if self.vector:
            nodes[f"{self.name}.vector"] = last.mean((2, 3))
        return nodes

    def links(self) -> list[Link]:
        """Its stages, long ones in halves, and its end. Where parts of it are frozen it is one piece."""
        first, read = max(0, self.skip - 1), self.reads[0]
        stages = list(self.network.stages)[first:]
        if self.frozen or not stages or any(begins_in_place(each) for each in (*stages, self.network.head)):
            return super().links()
        found: list[Link] = []
        for number, stage in enumerate(stages, first):
            pieces = halves(stage)
            if self.skip == 0 == number:
                pieces[0] = [self.network.stem, *pieces[0]]
            gives = [f"{self.name}.within{number}", f"{self.name}.map{number}"][-len(pieces) :]
            for layers, give in zip(pieces, gives, strict=True):
                found.append(link_of(layers, read, give))
                read = give
        return [*found, Link((read,), (self.name, f"{self.name}.vector"), self._end)]


class Trunk(Part):
    """The leading parts that all peers share: images to the map that they go on from, ``trunk``.

    The modules are those of the first peer, which saves them. ``scale`` multiplies the gradient that comes
    back: 1 / M makes it the mean of the peers' gradients (CL-ILR; Song and Chai 2018, section 3.2).
    ``frozen``: peers for whom it gives the maps of its stages too; none of its parts learns, so that a
    batch's pictures can be computed apart.
    """

    def __init__(self, network: Backbone, skip: int, scale: float = 1.0, frozen: Sequence[str] = ()) -> None:
        super().__init__("trunk", ("view0",))
        self.scale, self.frozen, self.by_picture = scale, tuple(frozen), bool(frozen)
        self.gives = (self.name, *(f"{peer}.map{stage}" for peer in frozen for stage in range(skip - 1)))
        # a list: registered by the peer alone
        self._modules_of_peer = [network.stem, *list(network.stages)[: skip - 1]]

    def forward(self, x: Tensor) -> Nodes:
        """The shared map."""
        if self.frozen:
            after_stem = frozen_maps(self._modules_of_peer, x)
            nodes = {f"{peer}.map{s}": each for peer in self.frozen for s, each in enumerate(after_stem[1:])}
            return nodes | {self.name: after_stem[-1]}
        for module in self._modules_of_peer:
            x = module(x)
        return {self.name: x if self.scale == 1.0 else scaled_gradient(x, self.scale)}


def frozen_maps(modules: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """What each of some modules gives for x (B, ...), one after the other, without gradients.

    Few pictures at a time: their maps then stay in the processor's caches, where no gradient needs them
    again.
    """
    pieces: list[list[Tensor]] = []
    with torch.no_grad():
        for piece in in_pieces_of(x, AT_ONCE) if modules else ():
            maps = []
            for module in modules:
                piece = module(piece)
                maps.append(piece)
            pieces.append(maps)
    return [torch.cat(maps) for maps in zip(*pieces, strict=True)]


def in_pieces_of(x: Tensor, count: int) -> Sequence[Tensor]:
    """x (B, ...) in pieces of so many; in one on a GPU, whose caches are no matter."""
    return [x] if x.is_cuda else torch.split(x, count)


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
