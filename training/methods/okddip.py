"""OKDDip: auxiliary peers learn from mixes of their own, a leader from their mean (Chen et al.; AAAI 2020).

L = sum_a CE(z_a) + CE(z_leader) + w(e) (sum_a KD_3(mix_a -> z_a) + KD_3(mean_a z_a -> z_leader)). The mixes'
weights are learnt through their own distillation term; logits that are mixed are constants, which the
released code leaves attached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lfdeploy.errors import UsageError
from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import all_but_last, branches, means
from training.options import Distilled, option
from training.parts import Attention, Mean
from training.schedule import RAMP_SHARE, Ramp


@dataclass(frozen=True)
class Options(Distilled):
    """Of OKDDip."""

    ramp: float = option(RAMP_SHARE, "share of the epochs over which distillation is ramped up; 0: none")
    share: str = option(
        "auto",
        "leading parts that all share; auto: all stages but the last",
        "auto",
        "none",
        "stem",
        "stage1",
        "stage2",
    )


def build(given: Given) -> Cohort:
    """Auxiliary peers, the leader (the last network), attention, the mean."""
    names = [*given.names[:-1], "leader"]
    widths = {network.shapes(given.size)[-1][0] for network in given.peers[:-1]}
    if len(widths) > 1:
        raise UsageError(
            "Method okddip compares the vectors of its auxiliary peers: their last maps need equal channels."
        )
    parts = branches(given, all_but_last(given, given.options.share), vector=True, names=names)
    mixes = [Attention(names[:-1], widths.pop()), Mean("auxiliary_mean", names[:-1])]
    return Cohort([*parts, *means(names), *mixes], ships=["leader"])


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels of all, mixes to their peers, the mean to the leader."""
    names, term = [peer.name for peer in cohort.peers], term_of(options)
    edges = [Edge("kd_mix", f"mix_{name}", name, 1.0, term, through=True) for name in names[:-1]]
    edges.append(Edge("kd_leader", "auxiliary_mean", "leader", 1.0, term))
    return LossGraph(dict.fromkeys(names, 1.0), tuple(edges), Ramp(options.ramp))


METHOD = Method(
    about="auxiliary peers learn from mixes of their own, a leader from their mean",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_a CE(z_a) + CE(z_l) + w (sum_a KD_3(mix_a -> z_a) + KD_3(mean_a z_a -> z_l))",
    ships="leader",
    when="one network is shipped, and several may train it",
    source="Chen et al. 2020, Online Knowledge Distillation with Diverse Peers",
    peers=4,
    least=3,
)
