"""Networks that follow others without being trained: exponential moving averages and stale copies."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import nn

from lfdeploy.models.backbone import Backbone
from training.parts.part import Link, Nodes, Part
from training.parts.peer import Peer


class Copy(Peer):
    """A copy of a peer, in eval mode, which teaches and is never trained. Its weights belong to the run.

    ``decay``: after every step t (from 0) weights and statistics move to decay * old + (1 - decay) * new with
    min(decay, t / (t + 1)), the plain mean of the first steps (PCL; Wu and Gong 2021). None: they are taken
    anew every ``every`` steps (codistillation; Anil et al. 2018, section 2.1).
    """

    def __init__(
        self, name: str, of: Peer, decay: float | None = None, every: int = 1, reads: str | None = None
    ) -> None:
        network = _copied(of.network)
        super().__init__(name, network, reads or of.reads[0], of.skip if reads is None else 0, of.vector)
        self.network.requires_grad_(False)
        self.decay, self.every = decay, every
        self._of = [of.network]  # a list: registered by its own part alone
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Always in eval mode: its normalisation uses the averaged statistics."""
        nn.Module.train(self, False)
        return self

    def forward(self, x: torch.Tensor) -> Nodes:
        """As a peer, without gradients."""
        with torch.no_grad():
            return super().forward(x)

    def links(self) -> list[Link]:
        """One piece: without gradients there is little of it."""
        return Part.links(self)

    def take_anew(self) -> None:
        """Be as the peer is now."""
        self.network.load_state_dict(self._of[0].state_dict())

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Follow."""
        if self.decay is None and (step + 1) % self.every:
            return
        keep = 0.0 if self.decay is None else min(step / (step + 1), self.decay)
        own, other = self.network.state_dict(), self._of[0].state_dict()
        for mine, theirs in zip(own.values(), other.values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - keep)
            else:
                mine.copy_(theirs)


def _copied(network: Backbone) -> Backbone:
    """Another network with the same numbers.

    Tensors are cloned one by one: that also works for those without numbers.
    """
    memo: dict[int, object] = {
        id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in network.parameters()
    }
    memo |= {id(buffer): buffer.detach().clone() for buffer in network.buffers()}
    return copy.deepcopy(network, memo)
