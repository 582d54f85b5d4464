"""What tests of training build: cohorts of any method, and the tensors that a step begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lfdeploy.models import create
from training.cohort import Cohort
from training.losses import LossGraph, Ramps, evaluate_graph
from training.methods import METHODS
from training.methods.method import Given
from training.parts import GivenTeacher, Nodes

PICTURES = 64  # of the training split that tests pretend to have


def teacher(classes: int, arch: str = "resnet8", name: str = "teacher") -> GivenTeacher:
    """An untrained one, whose pictures are normalised as the student's."""
    same = torch.zeros(3), torch.ones(3)
    return GivenTeacher(name, create(arch, classes), same, same)


def built(
    method: str, archs: Sequence[str], classes: int, size: int, options: Any, teacher_arch: str = "resnet8"
) -> Cohort:
    """A cohort of fresh networks; methods that need a teacher get an untrained one, made after them."""
    row = METHODS[method]
    peers = [create(arch, classes) for arch in archs]
    teachers = [teacher(classes, teacher_arch)] if row.teachers else []
    return row.build(Given(peers, classes, size, options, teachers, PICTURES))


def enough(method: str, count: int = 2) -> int:
    """As many networks as asked for, or as the method needs."""
    return max(count, METHODS[method].least)


def given(cohort: Cohort, images: Tensor, labels: Tensor) -> Nodes:
    """What a step begins with, all views alike."""
    return cohort.views_of(images) | {"labels": labels, "index": torch.arange(len(labels)) % PICTURES}


def at(graph: LossGraph, factor: float) -> Ramps:
    """All ramps of a graph at one factor."""
    return {ramp: torch.tensor(factor, dtype=torch.float64) for ramp in graph.ramps(0, 1)}


def parts_of(
    graph: LossGraph, cohort: Cohort, images: Tensor, labels: Tensor, factor: float = 1.0
) -> dict[str, Tensor]:
    """The parts of a loss from one forward pass."""
    return evaluate_graph(graph, cohort(given(cohort, images, labels)), at(graph, factor))


def auxiliaries(cohort: Cohort) -> list[Any]:
    """The modules of all auxiliary teachers."""
    return [cohort.parts[name].module for name in cohort.watched]
