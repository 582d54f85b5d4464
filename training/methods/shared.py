"""What several methods build in the same way: peers, private or behind a shared trunk, and heads on the maps
of one network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from lfdeploy.errors import UsageError
from lfdeploy.models.backbone import Backbone
from training.cohort import Cohort
from training.fusion import auxiliary_head
from training.methods.method import Given
from training.options import parts_shared
from training.parts import Auxiliary, Mean, Part, Peer, Trunk, share_modules

WIDEST = 512  # of a residual auxiliary head


def private(given: Given, *, views: bool = False, vector: bool = False) -> list[Part]:
    """Peers that learn nothing in common; with ``views`` each sees its own augmentation of the pictures.

    What is frozen is computed once where peers are alike and see the same.
    """
    return branches(replace(given, own_views=views or given.own_views), 0, vector=vector)


def branches(
    given: Given, skip: int, *, scale: float = 1.0, vector: bool = False, names: Sequence[str] = ()
) -> list[Part]:
    """Peers that share their first ``skip`` parts, and before them their trunk; none is shared where ``skip``
    is 0.
    """
    names = names or given.names
    if skip == 0 and (given.own_views or not given.frozen or not _begin_alike(given.peers)):
        reads = [f"view{i}" if given.own_views else "view0" for i in range(len(given.peers))]
        return [
            Peer(name, network, view, 0, vector, given.frozen)
            for name, network, view in zip(names, given.peers, reads, strict=True)
        ]
    check_alike(given.peers)
    skip = max(skip, given.frozen)
    share_modules(given.peers, skip)
    peers: list[Part] = [
        Peer(name, network, "trunk", skip, vector, given.frozen)
        for name, network in zip(names, given.peers, strict=True)
    ]
    return [Trunk(given.peers[0], skip, scale, frozen=names if given.frozen == skip else ()), *peers]


def means(names: Sequence[str]) -> list[Part]:
    """The part ``ensemble``, the mean of their logits."""
    return [Mean("ensemble", names)]


def all_but_last(given: Given, share: str) -> int:
    """How many leading parts ``share`` means: ``auto`` is all stages but the last,
    or none for unlike peers.
    """
    if share != "auto":
        return parts_shared(share)
    return len(given.peers[0].stages) if alike(given.peers) and len(given.peers) > 1 else 0


def alike(peers: Sequence[Backbone]) -> bool:
    """Whether all peers are of one architecture."""
    return len({tuple((key, value.shape) for key, value in peer.state_dict().items()) for peer in peers}) == 1


def _begin_alike(peers: Sequence[Backbone]) -> bool:
    """Whether several networks have one architecture, and with it the weights that they start from."""
    return len(peers) > 1 and len({peer.arch for peer in peers}) == 1 and alike(peers)


def check_alike(peers: Sequence[Backbone]) -> None:
    """Raise `UsageError` where nothing can be shared."""
    if not alike(peers):
        raise UsageError("-o share needs peers of one architecture; add -o share none.")


def auxiliary(
    network: Backbone, stage: int, channels: int, shapes: Sequence[tuple[int, int]], classes: int, kind: str
) -> nn.Module:
    """A head from the map of a stage, of so many channels, to logits (B, K), after the network's own
    remaining stages.

    ``kind``: see `training.fusion.auxiliary_head`; auto is continue for residual networks, else lite.
    """
    if kind == "auto":
        kind = "continue" if network.residual else "lite"
    rest = list(network.stages)[stage + 1 :]
    widths = [min(width, WIDEST) for width, _ in shapes[stage + 1 :]]
    blocks = [len(list(each.children())) for each in rest]
    return auxiliary_head(kind, channels, widths, blocks, classes)


def heads(given: Given, index: int, kind: str = "auto") -> list[Part]:
    """Auxiliary classifiers ``PEER_aux0``.. on the maps of one peer's middle stages,
    at most the two deepest.
    """
    network, name = given.peers[index], given.names[index]
    shapes = network.shapes(given.size)
    made: list[Part] = []
    for number, stage in enumerate(middle_stages(network, given.frozen)):
        module = auxiliary(network, stage, shapes[stage][0], shapes, given.classes, kind)
        made.append(Auxiliary(f"{name}_aux{number}", (f"{name}.map{stage}",), module))
    return made


def heads_of(cohort: Cohort, peer: str) -> list[str]:
    """The names of a peer's auxiliary classifiers."""
    return [name for name in cohort.parts if name.startswith(f"{peer}_aux")]


def middle_stages(network: Backbone, frozen: int = 0) -> list[int]:
    """The stages before the last that learn, at most the two deepest of them; ``frozen`` leading parts do
    not.
    """
    return list(range(max(0, frozen - 1), len(network.stages) - 1))[-2:]
