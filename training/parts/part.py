"""What a part is. Every tensor of a step has a name, and a part says which it reads and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Tensors by name: ``view0`` images (B, 3, H, W), ``labels`` (B,), ``index`` (B,) into the training split,
#: ``peer0`` logits (B, K), ``peer0.map1`` the map (B, C, H, W) of a stage, ``peer0.vector`` (B, C) its last
#: map's mean.
Nodes = dict[str, Tensor]


@dataclass(frozen=True)
class Link:
    """A piece of a part, which one thread computes: the tensors that it reads, the names of those that it
    gives, and how it makes them.
    """

    reads: tuple[str, ...]
    gives: tuple[str, ...]
    work: Callable[..., Nodes]


class Part(nn.Module):
    """A module with a name, from the tensors it ``reads`` to tensors named after it, or as ``gives`` says.

    A part that reads what a step does not have, as ``labels`` in evaluation, is left out of it.
    """

    saved = True  # whether its weights belong to the run; a teacher of another run has its own
    by_picture = False  # whether a batch may be computed in pieces: nothing learns, nothing joins pictures
    draws = False  # random numbers in its forward pass: then all parts run in one order
    keeps_statistics = False  # of normalisation: what was trained before, or calibrated
    learns_from_validation = False  # whether `after_epoch` is wanted, with the nodes of the validation split

    def __init__(self, name: str, reads: Iterable[str]) -> None:
        super().__init__()
        self.name, self.reads = name, tuple(reads)
        self.gives: tuple[str, ...] = (name,)

    def readable(self, nodes: Nodes) -> bool:
        """Whether all that it reads is there."""
        return all(name in nodes for name in self.reads)

    def links(self) -> list[Link]:
        """Its forward pass in pieces, one after the other, so that threads have equal loads: by default it is
        one.
        """
        return [Link(self.reads, self.gives, self)]

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; normalisation whose statistics are kept stays in evaluation."""
        super().train(mode)
        for module in self.modules() if self.keeps_statistics else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def after_step(self, step: int) -> None:
        """What is to be done once the optimiser has made step ``step`` (from 0 over the whole training)."""

    def after_epoch(self, nodes: Nodes) -> None:
        """What is learnt from the nodes of the whole validation split, ``labels`` among them."""

    def lightly_decayed(self) -> list[nn.Module]:
        """Modules whose weight decay is the method's own, smaller one."""
        return []


def run(parts: Iterable[Part], given: Nodes) -> Nodes:
    """The given tensors and those of the parts, in order; a part whose reads are missing is left out."""
    nodes = dict(given)
    for part in parts:
        if part.readable(nodes):
            nodes.update(part(*(nodes[name] for name in part.reads)))
    return nodes


def halves(module: nn.Module) -> list[list[nn.Module]]:
    """A sequence of four layers or more in two pieces, anything else in one."""
    layers = list(module) if type(module) is nn.Sequential else [module]
    middle = (len(layers) + 1) // 2
    if len(layers) < 4 or begins_in_place(layers[middle]):
        return [layers]
    return [layers[:middle], layers[middle:]]


def begins_in_place(module: nn.Module) -> bool:
    """Whether it may write over what it reads, so that nobody else may read that."""
    leaves = [each for each in module.modules() if not list(each.children())]
    first = next((each for each in leaves if not isinstance(each, nn.Identity)), module)
    return bool(getattr(first, "inplace", False))


def link_of(layers: Sequence[nn.Module], read: str, give: str) -> Link:
    """Layers one after the other, from one tensor to another."""

    def work(x: Tensor) -> Nodes:
        for layer in layers:
            x = layer(x)
        return {give: x}

    return Link((read,), (give,), work)


def wide(x: Tensor) -> Tensor:
    """The tensor in fp32, or as it is where it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
