"""FitNets: a student's middle map, through a 1x1 convolution, is to be the teacher's
(Romero et al.; ICLR 2015).

L = CE(z) + 100 |r(F_s) - F_t|^2 at the middle one of the stages that have a side in common. Deviation: one
stage of training instead of a hint first and distillation after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.cohort import Cohort
from training.losses import LossGraph
from training.methods.method import Given, Method
from training.methods.taught import TEACHER, Pair, Taught, cohort_of, compared, logit_edges, network_of, pairs
from training.options import option
from training.terms import hint


@dataclass(frozen=True)
class Options(Taught):
    """Of FitNets."""

    hint: float = option(100.0, "weight of the distance between maps")


def build(given: Given) -> Cohort:
    """Students, the teacher, and a regressor for each student."""
    teacher, parts = network_of(given, "fitnets"), []
    for name, student in zip(given.names, given.peers, strict=True):
        both = pairs(teacher, student, given.size)
        own, other = both[len(both) // 2]
        channels = teacher.shapes(given.size)[own][0], student.shapes(given.size)[other][0]
        parts.append(Pair(f"{name}_hint", (f"{TEACHER}.map{own}", f"{name}.map{other}"), channels))
    return cohort_of(given, parts)


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels, the hint, and logits if asked for."""
    edges = [*logit_edges(cohort, options), *compared(cohort, "hint", options.hint, hint)]
    return LossGraph(dict.fromkeys((peer.name for peer in cohort.peers), options.labels), tuple(edges))


METHOD = Method(
    about="a student's middle map is to be the teacher's",
    options=Options,
    build=build,
    graph=graph,
    loss="CE(z) + 100 |r(F_s) - F_t|^2",
    ships="peer0",
    when="teacher and student are of one family",
    source="Romero et al. 2015, FitNets: Hints for Thin Deep Nets",
    group="teacher",
    peers=1,
    teachers=True,
)
