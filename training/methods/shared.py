"""What several methods build in the same way: peers, private or behind a shared trunk, and heads on the maps
of one network.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """Peers with nothing in common; with ``views`` each sees its own augmentation of the pictures."""
    return [
        Peer(name, network, f"view{i}" if views else "view0", vector=vector)
        for i, (name, network) in enumerate(zip(given.names, given.peers, strict=True))
    ]


def branches(
    given: Given, skip: int, *, scale: float = 1.0, vector: bool = False, names: Sequence[str] = ()
) -> list[Part]:
    """Peers that share their first ``skip`` parts, and before them their trunk; none is shared where ``skip``
    is 0.
    """
    names = names or given.names
    if skip == 0:
        return [Peer(name, network, vector=vector) for name, network in zip(names, given.peers, strict=True)]
    check_alike(given.peers)
    share_modules(given.peers, skip)
    peers: list[Part] = [
        Peer(name, network, "trunk", skip, vector) for name, network in zip(names, given.peers, strict=True)
    ]  # fmt: skip
    return [Trunk(given.peers[0], skip, scale), *peers]


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
    for number, stage in enumerate(middle_stages(network)):
        module = auxiliary(network, stage, shapes[stage][0], shapes, given.classes, kind)
        made.append(Auxiliary(f"{name}_aux{number}", (f"{name}.map{stage}",), module))
    return made


def heads_of(cohort: Cohort, peer: str) -> list[str]:
    """The names of a peer's auxiliary classifiers."""
    return [name for name in cohort.parts if name.startswith(f"{peer}_aux")]


def middle_stages(network: Backbone) -> list[int]:
    """The stages before the last, at most the two deepest of them."""
    return list(range(len(network.stages) - 1))[-2:]
