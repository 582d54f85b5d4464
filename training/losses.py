"""Losses of online distillation: nodes with cross-entropy, edges from teacher to student, one place that detaches.

A method describes its loss as data (`LossGraph`); `evaluate_graph` turns it into named, weighted parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Edge:
    """Knowledge from ``teacher`` to ``student``, both names of nodes. ``part`` is the name it is logged under.

    Between logits: ``weight * KD_T``. With ``maps`` the nodes are feature maps: ``weight`` times the squared
    distance of normalised attention maps. Edges are ramped up over the first epochs.
    """

    part: str
    teacher: str
    student: str
    weight: float
    temperature: float = 3.0
    maps: bool = False


@dataclass(frozen=True)
class LossGraph:
    """Cross-entropy weights by node, edges, and the share of the epochs over which edges are ramped up."""

    labels: Mapping[str, float]
    edges: tuple[Edge, ...] = ()
    ramp: float = 0.0


@dataclass(frozen=True)
class Nodes:
    """What a cohort's forward pass yields: logits (B, K) by name, feature maps (B, C, H, W) by name."""

    logits: Mapping[str, Tensor]
    maps: Mapping[str, Tensor]


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KD_T: T^2 KL(softmax(teacher / T) || softmax(student / T)); sum over classes, mean over the batch, in fp32 or better.

    Hinton et al. 2015, section 2; the factor T^2 keeps the gradient's size. Does not detach: `evaluate_graph` does.
    """
    dtype = torch.promote_types(student.dtype, torch.float32)
    target = F.log_softmax(teacher.to(dtype) / temperature, dim=1)
    answer = F.log_softmax(student.to(dtype) / temperature, dim=1)
    return F.kl_div(answer, target, reduction="batchmean", log_target=True) * temperature**2


def attention_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean squared difference of l2-normalised spatial attention maps (Zagoruyko & Komodakis 2017, eq. 2)."""

    def attention(x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return F.normalize(x.to(dtype).pow(2).mean(1).flatten(1), dim=1)

    return (attention(student) - attention(teacher)).pow(2).mean()


def evaluate_graph(graph: LossGraph, nodes: Nodes, labels: Tensor, ramp: float) -> dict[str, Tensor]:
    """Named, already weighted parts whose sum is the loss. Teachers are detached here and nowhere else."""
    parts: dict[str, Tensor] = {}
    for node, weight in graph.labels.items():
        logits = nodes.logits[node]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        parts[f"ce_{node}"] = weight * F.cross_entropy(logits.to(dtype), labels)
    for edge in graph.edges:
        source = nodes.maps if edge.maps else nodes.logits
        teacher, student = source[edge.teacher].detach(), source[edge.student]
        term = attention_distance(teacher, student) if edge.maps else distillation(teacher, student, edge.temperature)
        term = ramp * edge.weight * term
        parts[edge.part] = parts[edge.part] + term if edge.part in parts else term
    return parts
