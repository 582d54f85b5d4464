"""A loss as data: nodes with cross-entropy, edges from teacher to student, and the one place that
detaches teachers.

A method describes its loss as a `LossGraph`; `evaluate_graph` turns it into named, weighted parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.parts.part import Nodes, wide
from training.schedule import AT_ONCE, Ramp
from training.terms import Term, kd

Ramps = Mapping[Ramp, Tensor]
KD3 = kd(3.0)


@dataclass(frozen=True)
class Edge:
    """Knowledge from ``teacher`` to ``student``, both names of tensors:

    ``weight * term(teacher, student)``, ramped up.

    ``part`` is the name it is logged under. ``through``: the teacher learns too. ``ramp``: None is
    the graph's.
    """

    part: str
    teacher: str
    student: str
    weight: float = 1.0
    term: Term = KD3
    through: bool = False
    ramp: Ramp | None = None


@dataclass(frozen=True)
class LossGraph:
    """Cross-entropy weights by node, edges, and how edges without a ramp of their own are ramped up.

    ``smoothing``: the share of every label that is spread over all classes (Szegedy et al. 2016).
    """

    labels: Mapping[str, float]
    edges: tuple[Edge, ...] = ()
    ramp: Ramp = AT_ONCE
    smoothing: float = 0.0

    def ramps(self, epoch: int, epochs: int, device: str = "cpu") -> Ramps:
        """Every factor of an epoch as a tensor, so that a step holds no number that changes."""
        every = {self.ramp, *(edge.ramp for edge in self.edges if edge.ramp is not None)}
        return {ramp: torch.tensor(ramp(epoch, epochs), dtype=torch.float64, device=device) for ramp in every}


def evaluate_graph(graph: LossGraph, nodes: Nodes, ramps: Ramps) -> dict[str, Tensor]:
    """Named, already weighted parts whose sum is the loss. Teachers are detached here and nowhere else."""
    parts: dict[str, Tensor] = {}
    for node, weight in graph.labels.items():
        entropy = F.cross_entropy(wide(nodes[node]), nodes["labels"], label_smoothing=graph.smoothing)
        parts[f"ce_{node}"] = weight * entropy
    for edge in graph.edges:
        teacher = nodes[edge.teacher] if edge.through else nodes[edge.teacher].detach()
        term = edge.term(teacher, nodes[edge.student])
        factor = ramps[graph.ramp if edge.ramp is None else edge.ramp] * edge.weight
        term = factor.to(term.dtype) * term
        parts[edge.part] = parts[edge.part] + term if edge.part in parts else term
    return parts
