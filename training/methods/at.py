"""AT: where a student looks is to be where its teacher looks (Zagoruyko and Komodakis; ICLR 2017).

L = CE(z) + beta/S sum over stages of the distance of their normalised attention maps, for all stages that
have a side in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.cohort import Cohort
from training.losses import LossGraph
from training.methods.method import Given, Method
from training.methods.taught import TEACHER, Pair, Taught, cohort_of, compared, logit_edges, network_of, pairs
from training.options import option
from training.terms import attention_distance


@dataclass(frozen=True)
class Options(Taught):
    """Of AT."""

    beta: float = option(1000.0, "weight of the attention maps, shared among the stages")


def build(given: Given) -> Cohort:
    """Students and the teacher, and the maps that are compared."""
    teacher = network_of(given, "at")
    looks = [
        Pair(f"{name}_look{i}", (f"{TEACHER}.map{own}", f"{name}.map{other}"))
        for name, student in zip(given.names, given.peers, strict=True)
        for i, (own, other) in enumerate(pairs(teacher, student, given.size))
    ]
    return cohort_of(given, looks)


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels, attention maps, and logits if asked for."""
    peers = [peer.name for peer in cohort.peers]
    weight = options.beta * len(peers) / max(1, len(compared(cohort, "at", 1.0, attention_distance)))
    edges = [*logit_edges(cohort, options), *compared(cohort, "attention", weight, attention_distance)]
    return LossGraph(dict.fromkeys(peers, options.labels), tuple(edges))


METHOD = Method(
    about="where a student looks is to be where its teacher looks",
    options=Options,
    build=build,
    graph=graph,
    loss="CE(z) + 1000/S sum_s mean (q(F_t) - q(F_s))^2",
    ships="peer0",
    when="maps of equal sides; cheap, and channels may differ",
    source="Zagoruyko and Komodakis 2017, Paying More Attention to Attention",
    group="teacher",
    peers=1,
    teachers=True,
)
