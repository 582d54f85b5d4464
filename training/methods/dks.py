"""DKS: all classifiers of one network teach each other (Sun, Yao, Zhou, Zhao; CVPR 2019).

L = sum_h CE(z_h) + sum over ordered pairs of one network's classifiers KL(p_a || p_b), weight 1, T = 1.
Several peers are several such networks side by side, which have nothing in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import heads, heads_of, means, private
from training.options import Distilled, option


@dataclass(frozen=True)
class Options(Distilled):
    """Of DKS."""

    temperature: float = option(1.0, "of every distillation term")
    weight: float = option(1.0, "of each pair")
    heads: str = option(
        "auto", "auto: dks for residual nets, else lite", "auto", "gap", "lite", "continue", "dks"
    )


def build(given: Given) -> Cohort:
    """Networks with auxiliary classifiers."""
    parts = private(given)
    extra = []
    for index, network in enumerate(given.peers):
        kind = given.options.heads
        extra += heads(given, index, "dks" if kind == "auto" and network.residual else kind)
    return Cohort(
        [*parts, *means(given.names), *extra], ships=["peer0"], watched=[head.name for head in extra]
    )


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels of all, and every ordered pair within a network."""
    term, edges = term_of(options), []
    for peer in cohort.peers:
        own = [peer.name, *heads_of(cohort, peer.name)]
        edges += [Edge("kd_heads", a, b, options.weight, term) for b in own for a in own if a != b]
    return LossGraph(
        dict.fromkeys([*(peer.name for peer in cohort.peers), *cohort.watched], 1.0), tuple(edges)
    )


METHOD = Method(
    about="all classifiers of one network teach each other",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_h CE(z_h) + sum_{a != b} KL(p_a || p_b), h over one network's classifiers",
    ships="peer0",
    when="one network, trained better for about 1.4 times the cost",
    source="Sun et al. 2019, Deeply-supervised Knowledge Synergy",
    group="self",
    peers=1,
)
