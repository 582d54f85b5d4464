"""DML: every peer learns from every other one (Zhang, Xiang, Hospedales, Lu; CVPR 2018).

L_m = CE(z_m) + 1/(M-1) sum_{j != m} KL(p_j || p_m), no temperature, no ramp. The paper steps one network
after the other; here all learn from one forward pass, as in the authors' released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import means, private
from training.options import Distilled, option


@dataclass(frozen=True)
class Options(Distilled):
    """Of DML."""

    temperature: float = option(1.0, "of every distillation term")
    weight: float = option(1.0, "of what the other peers teach together")


def build(given: Given) -> Cohort:
    """Private peers."""
    return Cohort([*private(given), *means(given.names)], ships=["peer0"])


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Cross-entropy, and every ordered pair."""
    names = [peer.name for peer in cohort.peers]
    weight = options.weight / max(1, len(names) - 1)
    edges = [Edge("kd_peers", a, b, weight, term_of(options)) for b in names for a in names if a != b]
    return LossGraph(dict.fromkeys(names, 1.0), tuple(edges))


METHOD = Method(
    about="every peer learns from every other one",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_m CE(z_m) + 1/(M-1) sum_{j != m} KL(p_j || p_m)",
    ships="peer0",
    when="the simplest mutual learning; works with any networks side by side",
    source="Zhang et al. 2018, Deep Mutual Learning",
    least=2,
)
