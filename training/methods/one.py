"""ONE: branches behind a shared trunk learn from their gated sum (Lan, Zhu, Gong; NeurIPS 2018).

L = sum_m CE(z_m) + CE(g) + w(e) sum_m KD_3(g -> z_m); the gate learns from CE(g) alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lfdeploy.errors import UsageError
from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import alike, branches, means
from training.options import Distilled, option, parts_shared
from training.parts import Gate
from training.schedule import RAMP_SHARE, Ramp


@dataclass(frozen=True)
class Options(Distilled):
    """Of ONE."""

    ramp: float = option(RAMP_SHARE, "share of the epochs over which distillation is ramped up; 0: none")
    share: str = option(
        "auto", "leading parts that all share; auto: all stages but the last", "auto", "stage1", "stage2"
    )


def build(given: Given) -> Cohort:
    """Trunk, branches, gate."""
    network = given.peers[0]
    skip = len(network.stages) if given.options.share == "auto" else parts_shared(given.options.share)
    if not alike(given.peers):
        raise UsageError("Method one needs peers of one architecture, since its branches share a trunk.")
    skip = max(skip, given.frozen)
    channels = network.shapes(given.size)[skip - 2][0]
    parts = branches(given, skip)
    return Cohort(
        [*parts, *means(given.names), Gate("gate", "trunk", channels, given.names)],
        ships=["peer0"],
        watched=["gate"],
    )


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels of all, and the gate teaches the branches."""
    names = [peer.name for peer in cohort.peers]
    edges = [Edge("kd_gate", "gate", name, 1.0, term_of(options)) for name in names]
    return LossGraph(dict.fromkeys([*names, "gate"], 1.0), tuple(edges), Ramp(options.ramp))


METHOD = Method(
    about="branches behind a shared trunk learn from their gated sum",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_m CE(z_m) + CE(g) + w sum_m KD_3(g -> z_m)",
    ships="peer0",
    when="several teachers for little more than one network's cost",
    source="Lan et al. 2018, Knowledge Distillation by On-the-Fly Native Ensemble",
    peers=3,
    least=2,
)
