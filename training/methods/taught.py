"""What methods with a teacher trained before have in common: students, the teacher, which of their maps
belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from lfdeploy.errors import UsageError
from lfdeploy.models.backbone import Backbone
from training.cohort import Cohort
from training.losses import Edge
from training.methods.method import Given, term_of
from training.methods.shared import means, private
from training.options import Distilled, option
from training.parts import Mean, Nodes, Part
from training.terms import Term

TEACHER = "teacher"


@dataclass(frozen=True)
class Taught(Distilled):
    """Options of every such method: how much of the labels, and how much of the teacher's logits."""

    temperature: float = option(4.0, "of every distillation term")
    labels: float = option(1.0, "weight of the labels' cross-entropy")
    weight: float = option(0.0, "of what the teacher's logits teach")


def cohort_of(given: Given, parts: Sequence[Part] = (), vector: bool = False) -> Cohort:
    """Students, all teachers, the mean of several teachers' logits, and what else a method has."""
    several = [Mean(TEACHER, [each.name for each in given.teachers])] if len(given.teachers) > 1 else []
    students = private(replace(given, own_views=False), vector=vector)  # they see what their teacher sees
    return Cohort([*given.teachers, *several, *students, *means(given.names), *parts], ships=["peer0"])


def logit_edges(cohort: Cohort, options: Taught) -> list[Edge]:
    """The teacher's logits to every student."""
    edges = [
        Edge("kd_teacher", TEACHER, peer.name, options.weight, term_of(options)) for peer in cohort.peers
    ]
    return [edge for edge in edges if edge.weight]


def network_of(given: Given, method: str) -> Backbone:
    """The one teacher's network, for methods that need its maps.

    Raises `UsageError` for several teachers, or one of several networks.
    """
    if len(given.teachers) != 1:
        raise UsageError(
            f"Method {method} takes one teacher, not {len(given.teachers)}. Method kd takes several."
        )
    network = given.teachers[0].network
    if not isinstance(network, Backbone):
        raise UsageError(
            f"Method {method} needs a teacher's inner maps, which a fused target and a file alone have not: "
            "name a run, or an artifact of one peer beside its run."
        )
    return network


def pairs(teacher: Backbone, student: Backbone, size: int) -> list[tuple[int, int]]:
    """Stages (of the teacher, of the student) whose maps have the same side; for each side the deepest
    of both.
    """
    sides = [
        {side: stage for stage, (_, side) in enumerate(network.shapes(size))}
        for network in (teacher, student)
    ]
    found = [(sides[0][side], sides[1][side]) for side in sides[0] if side in sides[1]]
    if not found:
        raise UsageError(
            "The teacher's maps and the student's have no side in common; take method kd, which "
            "compares logits alone."
        )
    return found


class Pair(Part):
    """A teacher's and a student's map that belong together: ``NAME.teacher`` and ``NAME.student``.

    With ``channels`` (the teacher's, the student's) a 1x1 convolution with BatchNorm and ReLU brings the
    student's to the teacher's width (FitNets' regressor).
    """

    def __init__(self, name: str, reads: tuple[str, str], channels: tuple[int, int] | None = None) -> None:
        super().__init__(name, reads)
        self.regressor: nn.Module = nn.Identity()
        if channels is not None:
            theirs, ours = channels
            self.regressor = nn.Sequential(nn.Conv2d(ours, theirs, 1), nn.BatchNorm2d(theirs), nn.ReLU())

    def forward(self, teacher: Tensor, student: Tensor) -> Nodes:
        """Both maps."""
        return {f"{self.name}.teacher": teacher, f"{self.name}.student": self.regressor(student)}


def compared(cohort: Cohort, part: str, weight: float, term: Term) -> list[Edge]:
    """An edge for every `Pair` of a cohort."""
    names = [each.name for each in cohort.parts.values() if isinstance(each, Pair)]
    return [Edge(part, f"{name}.teacher", f"{name}.student", weight, term) for name in names]
