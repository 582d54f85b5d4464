"""CRD: a student's vector of a picture is to be found among many by its teacher's vector of it (Tian,
Krishnan, Isola; ICLR 2020).

L = CE(z) + 0.8 contrast, with teacher vectors of other pictures remembered from earlier steps. Deviations: a
softmax over one right and ``negatives`` wrong vectors (InfoNCE) for their estimate with a constant; 1,024
negatives drawn once a step for the whole batch, where the released code draws 16,384 for each picture;
vectors are the last maps' means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method
from training.methods.taught import TEACHER, Taught, cohort_of, logit_edges, network_of
from training.options import option, within
from training.parts import Memory
from training.terms import first_entry


@dataclass(frozen=True)
class Options(Taught):
    """Of CRD."""

    contrast: float = option(0.8, "weight of the contrast")
    negatives: int = option(1024, "remembered vectors to tell a picture from")
    width: int = option(128, "of the vectors that are compared")
    contrast_temperature: float = option(0.07, "that similarities are divided by")

    def __post_init__(self) -> None:
        super().__post_init__()
        within("negatives", self.negatives, 1)
        within("width", self.width, 1)
        within("contrast_temperature", self.contrast_temperature, 1e-3)


def build(given: Given) -> Cohort:
    """Students, the teacher, and a memory for each student."""
    teacher, options = network_of(given, "crd"), given.options
    width = teacher.shapes(given.size)[-1][0]
    memories = [
        Memory(
            f"{name}_contrast",
            (f"{TEACHER}.vector", f"{name}.vector"),
            (width, student.shapes(given.size)[-1][0]),
            given.pictures,
            negatives=options.negatives,
            width=options.width,
            temperature=options.contrast_temperature,
        )
        for name, student in zip(given.names, given.peers, strict=True)
    ]
    return cohort_of(given, memories, vector=True)


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels, contrast, and logits if asked for."""
    names = [peer.name for peer in cohort.peers]
    edges = [
        Edge("contrast", f"{name}_contrast", f"{name}_contrast", options.contrast, first_entry)
        for name in names
    ]
    return LossGraph(dict.fromkeys(names, options.labels), (*logit_edges(cohort, options), *edges))


METHOD = Method(
    about="a picture's vector is to be found among many by the teacher's vector of it",
    options=Options,
    build=build,
    graph=graph,
    loss="CE(z) + 0.8 contrast(v_t, v_s; memory)",
    ships="peer0",
    when="the strongest of the classic methods with a teacher; takes many epochs",
    source="Tian et al. 2020, Contrastive Representation Distillation",
    group="teacher",
    peers=1,
    teachers=True,
    looks_across="epochs",
)
