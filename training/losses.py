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
    the graph's. ``if_better``: logits teach only pictures that their teacher answers better than the student,
    by cross-entropy.
    """

    part: str
    teacher: str
    student: str
    weight: float = 1.0
    term: Term = KD3
    through: bool = False
    ramp: Ramp | None = None
    if_better: bool = False


@dataclass(frozen=True)
class LossGraph:
    """Cross-entropy weights by node, edges, and how edges without a ramp of their own are ramped up.

    ``smoothing``: the share of every label that is spread over all classes (Szegedy et al. 2016).
    ``class_weights`` (K,): how much the pictures of each class count, None: all alike.
    """

    labels: Mapping[str, float]
    edges: tuple[Edge, ...] = ()
    ramp: Ramp = AT_ONCE
    smoothing: float = 0.0
    class_weights: Tensor | None = None

    def ramps(self, epoch: int, epochs: int, device: str = "cpu") -> Ramps:
        """Every factor of an epoch as a tensor, so that a step holds no number that changes."""
        every = {self.ramp, *(edge.ramp for edge in self.edges if edge.ramp is not None)}
        return {ramp: torch.tensor(ramp(epoch, epochs), dtype=torch.float64, device=device) for ramp in every}


def evaluate_graph(graph: LossGraph, nodes: Nodes, ramps: Ramps) -> dict[str, Tensor]:
    """Named, already weighted parts whose sum is the loss. Teachers are detached here and nowhere else."""
    parts: dict[str, Tensor] = {}
    for node, weight in graph.labels.items():
        parts[f"ce_{node}"] = weight * _entropy(nodes[node], nodes, graph.class_weights, graph.smoothing)
    for edge in graph.edges:
        teacher = nodes[edge.teacher] if edge.through else nodes[edge.teacher].detach()
        if edge.if_better:
            teacher = _where_better(teacher, nodes[edge.student].detach(), nodes)
        term = edge.term(teacher, nodes[edge.student])
        factor = ramps[graph.ramp if edge.ramp is None else edge.ramp] * edge.weight
        term = factor.to(term.dtype) * term
        parts[edge.part] = parts[edge.part] + term if edge.part in parts else term
    return parts


def _entropy(
    logits: Tensor, nodes: Nodes, weights: Tensor | None = None, smoothing: float = 0.0, each: bool = False
) -> Tensor:
    """Cross-entropy of logits (B, K) with the labels, by both labels of mixed pictures: the mean, or of
    ``each`` picture (B,).
    """
    logits = wide(logits)
    weights = None if weights is None else weights.to(logits.dtype)
    kind = "none" if each else "mean"
    found = F.cross_entropy(logits, nodes["labels"], weights, reduction=kind, label_smoothing=smoothing)
    if "other_labels" in nodes:
        other = nodes["other_labels"]
        second = F.cross_entropy(logits, other, weights, reduction=kind, label_smoothing=smoothing)
        found = torch.lerp(second, found, nodes["share"].to(found.dtype))
    return found


def _where_better(teacher: Tensor, student: Tensor, nodes: Nodes) -> Tensor:
    """The teacher's logits (B, K) where their cross-entropy is the smaller one; elsewhere the student's own,
    from which there is nothing to learn: divergence and gradient are 0.
    """
    better = _entropy(teacher.detach(), nodes, each=True) < _entropy(student, nodes, each=True)
    return torch.where(better[:, None], teacher, student)
