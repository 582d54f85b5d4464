"""Multi-exit: a network's last exit teaches the earlier ones (Phuong and Lampert; ICCV 2019).

L = sum_h CE(z_h) + sum over earlier exits KD_T(z -> z_h). Deviation: a fixed temperature; the paper raises it
as teachers grow sure.
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
    """Of multi-exit training."""

    weight: float = option(1.0, "of what the last exit teaches")
    heads: str = option(
        "auto", "auto: dks for residual nets, else lite", "auto", "gap", "lite", "continue", "dks"
    )


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels of all, and the last exit teaches the others."""
    term, peers = term_of(options), [peer.name for peer in cohort.peers]
    edges = [
        Edge("kd_exit", peer, head, options.weight, term) for peer in peers for head in heads_of(cohort, peer)
    ]
    return LossGraph(dict.fromkeys([*peers, *cohort.watched], 1.0), tuple(edges))


METHOD = Method(
    about="a network's last exit teaches the earlier ones",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_h CE(z_h) + sum_h KD_3(z -> z_h)",
    ships="peer0, the last exit",
    when="one network and no teacher; a simpler byot",
    source="Phuong and Lampert 2019, Distillation-based Training for Multi-exit Architectures",
    group="self",
    peers=1,
)
