"""Parts that read several peers, or a middle map of one: fusions, auxiliary heads, means, rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lfdeploy.models.fusion import FusedHead, align
from training.fusion import AuxiliaryTeacher
from training.parts.part import Link, Nodes, Part, begins_in_place, halves, link_of, wide


class FusedPart(Part):
    """The fused classifier: the peers' last maps to logits (B, K).

    With ``detach`` it does not train the peers.
    """

    def __init__(self, name: str, reads: Iterable[str], head: FusedHead, detach: bool = False) -> None:
        super().__init__(name, reads)
        self.head, self.detach = head, detach

    def forward(self, *maps: Tensor) -> Nodes:
        """Logits."""
        aligned = align(maps)
        return {self.name: self.head([each.detach() for each in aligned] if self.detach else aligned)}

    def lightly_decayed(self) -> list[nn.Module]:
        """All of it."""
        return [self.head]


class Auxiliary(Part):
    """An auxiliary teacher on the fused middle maps of peers, or an auxiliary head on the map of one.

    Gives logits ``NAME`` (B, K), the map ``NAME.map`` that they were read from, and ``NAME.inI``, the maps
    read, of equal sides.
    """

    def __init__(
        self, name: str, reads: Iterable[str], module: AuxiliaryTeacher | nn.Module, detach: bool = False
    ) -> None:
        super().__init__(name, reads)
        self.module, self.detach = module, detach

    def forward(self, *maps: Tensor) -> Nodes:
        """Logits, the map that they were read from, the maps that were fused."""
        nodes = self._fused(*maps)
        return {self.name: self._head(nodes[f"{self.name}.map"])} | nodes

    @property
    def _head(self) -> nn.Module:
        return self.module.head if isinstance(self.module, AuxiliaryTeacher) else self.module

    def _fused(self, *maps: Tensor) -> Nodes:
        aligned = align(maps)
        read = [each.detach() for each in aligned] if self.detach else aligned
        seen = self.module.fused(read) if isinstance(self.module, AuxiliaryTeacher) else read[0]
        return {f"{self.name}.map": seen} | {f"{self.name}.in{i}": each for i, each in enumerate(aligned)}

    def links(self) -> list[Link]:
        """The map, then the head: its groups of blocks in halves."""
        head = self._head
        groups = list(head)[:-1] if type(head) is nn.Sequential else []
        if not all(type(group) is nn.Sequential and not begins_in_place(group) for group in groups):
            groups = []
        pieces = [piece for group in groups for piece in halves(group)] or [[]]
        pieces[-1] = [*pieces[-1], head[-1] if groups else head]  # type: ignore[index]
        read = f"{self.name}.map"
        found = [
            Link(self.reads, (read, *(f"{self.name}.in{i}" for i in range(len(self.reads)))), self._fused)
        ]
        for number, layers in enumerate(pieces, 1):
            give = self.name if number == len(pieces) else f"{self.name}.within{number}"
            found.append(link_of(layers, read, give))
            read = give
        return found

    def lightly_decayed(self) -> list[nn.Module]:
        """The fusion and its attention; the head is as large as a network's, and decays like one."""
        return (
            [self.module.fusion, self.module.attention] if isinstance(self.module, AuxiliaryTeacher) else []
        )


class Mean(Part):
    """The mean of logits (B, K), in fp32 or wider."""

    def forward(self, *logits: Tensor) -> Nodes:
        """The mean."""
        return {self.name: torch.stack([wide(each) for each in logits]).mean(0)}


class Rule(Part):
    """What a pure function without weights makes of the tensors it reads, under one name."""

    def __init__(self, name: str, reads: Iterable[str], rule: Callable[..., Tensor]) -> None:
        super().__init__(name, reads)
        self.rule = rule

    def forward(self, *tensors: Tensor) -> Nodes:
        """The function's value."""
        return {self.name: self.rule(*tensors)}
