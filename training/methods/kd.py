"""KD: students learn from the logits of teachers trained before (Hinton, Vinyals, Dean; 2015).

L = 0.1 CE(z) + 0.9 KD_4(t -> z); of several teachers t is the mean of their logits. ``-o relative W`` adds
the votes of several teachers on which of two pictures is nearer to a third (You, Xu, Xu, Tao; KDD 2017), on
their last maps' means and the student's; deviation: for triplets of neighbours in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfdeploy.errors import UsageError
from lfdeploy.models.backbone import Backbone
from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method
from training.methods.taught import Taught, cohort_of, logit_edges
from training.options import option
from training.parts import Rule
from training.parts.part import wide
from training.terms import votes


@dataclass(frozen=True)
class Options(Taught):
    """Of KD."""

    labels: float = option(0.1, "weight of the labels' cross-entropy")
    weight: float = option(0.9, "of what the teachers' logits teach")
    relative: float = option(0.0, "weight of the teachers' votes on which pictures are alike")


def ballot(*vectors: Tensor) -> Tensor:
    """(B,): 1 where at least half of the teachers' vectors (B, C) have picture i nearer to i + 1 than to i +
    2, else -1.
    """
    count = torch.zeros(len(vectors[0]), device=vectors[0].device)
    for each in vectors:
        unit = F.normalize(wide(each), dim=1)
        near, far = (unit - unit.roll(-1, 0)).pow(2).sum(1), (unit - unit.roll(-2, 0)).pow(2).sum(1)
        count = count + torch.where(near < far, 1.0, -1.0)
    return torch.where(count >= 0, 1.0, -1.0)


def build(given: Given) -> Cohort:
    """Students and teachers."""
    if not given.options.relative:
        return cohort_of(given)
    if not all(isinstance(teacher.network, Backbone) for teacher in given.teachers):
        raise UsageError(
            "-o relative needs the teachers' inner maps, which fused targets and files alone have not: name "
            "runs, or artifacts of single peers beside their runs."
        )
    parts = [Rule("ballot", [f"{teacher.name}.vector" for teacher in given.teachers], ballot)]
    return cohort_of(given, parts, vector=True)


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels, logits, votes."""
    names = [peer.name for peer in cohort.peers]
    edges = [
        Edge("votes", "ballot", f"{name}.vector", options.relative, votes)
        for name in names
        if options.relative
    ]
    return LossGraph(dict.fromkeys(names, options.labels), (*logit_edges(cohort, options), *edges))


METHOD = Method(
    about="students learn from the logits of one or several trained teachers",
    options=Options,
    build=build,
    graph=graph,
    loss="0.1 CE(z) + 0.9 KD_4(t -> z)",
    ships="peer0",
    when="a good network exists already, and a smaller one is wanted",
    source="Hinton et al. 2015, Distilling the Knowledge in a Neural Network",
    group="teacher",
    peers=1,
    teachers=True,
)
