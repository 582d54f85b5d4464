"""RKD: distances and angles between a student's vectors are to be those between the teacher's (Park, Kim, Lu,
Cho; CVPR 2019).

L = CE(z) + 25 Huber(distances) + 50 Huber(angles), over all pairs and triplets of a batch, on the last maps'
means. Angles cost memory that grows with the cube of the batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method
from training.methods.taught import TEACHER, Taught, cohort_of, logit_edges, network_of
from training.options import option
from training.terms import angles, distances


@dataclass(frozen=True)
class Options(Taught):
    """Of RKD."""

    distance: float = option(25.0, "weight of the distances")
    angle: float = option(50.0, "weight of the angles; 0 saves their memory")


def build(given: Given) -> Cohort:
    """Students and the teacher."""
    network_of(given, "rkd")
    return cohort_of(given, vector=True)


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels, distances, angles, and logits if asked for."""
    edges = logit_edges(cohort, options)
    for peer in cohort.peers:
        ends = f"{TEACHER}.vector", f"{peer.name}.vector"
        edges += [
            Edge("distances", *ends, options.distance, distances),
            Edge("angles", *ends, options.angle, angles),
        ]
    used = tuple(edge for edge in edges if edge.weight)
    return LossGraph(dict.fromkeys((peer.name for peer in cohort.peers), options.labels), used)


METHOD = Method(
    about="distances and angles between pictures are to be the teacher's",
    options=Options,
    build=build,
    graph=graph,
    loss="CE(z) + 25 Huber(d_t, d_s) + 50 Huber(a_t, a_s)",
    ships="peer0",
    when="teacher and student are unlike, and what counts is how pictures relate",
    source="Park et al. 2019, Relational Knowledge Distillation",
    group="teacher",
    peers=1,
    teachers=True,
    looks_across="batch",
)
