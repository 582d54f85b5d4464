"""DCM: all classifiers of two networks teach each other across the networks (Yao and Sun; ECCV 2020).

L = sum_h CE(z_h) + sum KL(p_a || p_b) over all ordered pairs of classifiers of different networks, weight 1,
T = 1, none within one. With more than two networks the pairs of one classifier are averaged over the
other networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.dks import build
from training.methods.method import Method, term_of
from training.methods.shared import heads_of
from training.options import Distilled, option


@dataclass(frozen=True)
class Options(Distilled):
    """Of DCM."""

    temperature: float = option(1.0, "of every distillation term")
    weight: float = option(1.0, "of each pair")
    heads: str = option(
        "auto", "auto: dks for residual nets, else lite", "auto", "gap", "lite", "continue", "dks"
    )


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels of all, and every ordered pair across networks."""
    term, peers = term_of(options), [peer.name for peer in cohort.peers]
    own = {peer: [peer, *heads_of(cohort, peer)] for peer in peers}
    weight = options.weight / max(1, len(peers) - 1)
    edges = [
        Edge("kd_across", a, b, weight, term)
        for student in peers for teacher in peers if teacher != student
        for b in own[student] for a in own[teacher]
    ]  # fmt: skip
    return LossGraph(dict.fromkeys([*peers, *cohort.watched], 1.0), tuple(edges))


METHOD = Method(
    about="all classifiers of several networks teach each other across the networks",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_h CE(z_h) + sum over networks A != B, a of A, b of B: KL(p_a || p_b)",
    ships="peer0",
    when="mutual learning with deep supervision; unlike networks too",
    source="Yao and Sun 2020, Knowledge Transfer via Dense Cross-layer Mutual-distillation",
    least=2,
)
