"""PCL: branches learn from their concatenated vectors and from averaged copies of the others
(Wu and Gong; AAAI 2021).

L = sum_m CE(z_m) + CE(z_f) + w(e) sum_m (KD_3(z_f -> z_m) + mean_{j != m} KD_3(EMA_j -> z_m)); each branch
sees its own augmentation. Shipped is the averaged copy of the first. Deviations: no shared trunk, whose one
view would undo the views of the branches; statistics of normalisation are averaged with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lfdeploy.models.fusion import FusedHead
from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import means, private
from training.options import Distilled, option, within
from training.parts import Copy, FusedPart, Peer
from training.schedule import RAMP_SHARE, Ramp


@dataclass(frozen=True)
class Options(Distilled):
    """Of PCL."""

    ramp: float = option(RAMP_SHARE, "share of the epochs over which distillation is ramped up; 0: none")
    decay: float = option(0.999, "of the averaged copies, per step")

    def __post_init__(self) -> None:
        super().__post_init__()
        within("decay", self.decay, 0, 1)


def build(given: Given) -> Cohort:
    """Peers, a view each; their averaged copies; a linear classifier on all their vectors."""
    peers, shapes = private(given, views=True), [peer.shapes(given.size) for peer in given.peers]
    copies = [
        Copy(f"ema{i}", peer, decay=given.options.decay)
        for i, peer in enumerate(peers)
        if isinstance(peer, Peer)
    ]
    reads = [f"{name}.map{len(each) - 1}" for name, each in zip(given.names, shapes, strict=True)]
    fused = FusedPart("fused", reads, FusedHead([each[-1][0] for each in shapes], given.classes, "concat"))
    return Cohort([*peers, *copies, fused, *means(given.names)], ships=["ema0"])


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels, the fused classifier, the averaged copies of the others."""
    names, term = [peer.name for peer in cohort.peers], term_of(options)
    edges = [Edge("kd_fused", "fused", name, 1.0, term) for name in names]
    share = 1 / max(1, len(names) - 1)
    edges += [
        Edge("kd_ema", f"ema{j}", name, share, term)
        for i, name in enumerate(names)
        for j in range(len(names))
        if j != i
    ]
    return LossGraph(dict.fromkeys([*names, "fused"], 1.0), tuple(edges), Ramp(options.ramp))


METHOD = Method(
    about="peers learn from their joined vectors and from averaged copies of the others",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_m CE(z_m) + CE(z_f) + w sum_m (KD_3(z_f -> z_m) + mean_{j != m} KD_3(EMA_j -> z_m))",
    ships="ema0",
    when="the strongest published online method of its kind; each peer has its own view of the pictures",
    source="Wu and Gong 2021, Peer Collaborative Learning for Online Knowledge Distillation",
    peers=3,
    least=2,
)
