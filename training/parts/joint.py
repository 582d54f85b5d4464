"""Parts that read several peers, or a middle map of one: fusions, auxiliary heads, means, rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lfdeploy.models.fusion import FusedHead, align
from training.fusion import AuxiliaryTeacher
from training.parts.part import Nodes, Part, wide


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
        aligned = align(maps)
        read = [each.detach() for each in aligned] if self.detach else aligned
        logits, seen = (
            self.module(read)
            if isinstance(self.module, AuxiliaryTeacher)
            else (self.module(read[0]), read[0])
        )
        return {self.name: logits, f"{self.name}.map": seen} | {
            f"{self.name}.in{i}": each for i, each in enumerate(aligned)
        }

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
