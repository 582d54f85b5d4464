"""Terms between two tensors, each a pure function (teacher, student) -> scalar. Nothing is detached here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.parts.part import wide

Term = Callable[[Tensor, Tensor], Tensor]


def distillation(teacher: Tensor, student: Tensor, temperature: float, standard: bool = False) -> Tensor:
    """KD_T: T^2 KL(softmax(teacher / T) || softmax(student / T)); sum over classes, mean over the batch, in
    fp32 or better.

    Hinton et al. 2015, section 2; the factor T^2 keeps the gradient's size. ``standard``: logits are first
    brought to mean 0 and deviation 1, picture by picture (Sun et al. 2024, "Logit standardization in
    knowledge distillation", section 3.3).
    """
    teacher, student = wide(teacher).to(wide(student).dtype), wide(student)
    if standard:
        teacher, student = standardised(teacher), standardised(student)
    target = F.log_softmax(teacher / temperature, dim=1)
    answer = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(answer, target, reduction="batchmean", log_target=True) * temperature**2


def standardised(logits: Tensor) -> Tensor:
    """(B, K) with mean 0 and deviation 1 in every row."""
    centred = logits - logits.mean(1, keepdim=True)
    return centred / centred.pow(2).mean(1, keepdim=True).sqrt().clamp_min(1e-7)


@dataclass(frozen=True)
class Distillation:
    """`distillation` with its settings; ``logits``: plain or standard."""

    temperature: float
    logits: str = "plain"

    def __call__(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The term."""
        return distillation(teacher, student, self.temperature, self.logits == "standard")


def kd(temperature: float, logits: str = "plain") -> Term:
    """The term KD_T."""
    return Distillation(temperature, logits)


def attention_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean squared difference of l2-normalised spatial attention maps (Zagoruyko & Komodakis 2017, eq. 2)."""

    def attention(x: Tensor) -> Tensor:
        return F.normalize(wide(x).pow(2).mean(1).flatten(1), dim=1)

    return (attention(student) - attention(teacher)).pow(2).mean()


def hint(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean squared difference of two maps or vectors of one shape (FitNets; Romero et al. 2015, eq. 3)."""
    return F.mse_loss(wide(student), wide(teacher))


def distances(teacher: Tensor, student: Tensor) -> Tensor:
    """Huber loss between pairwise distances of vectors (B, C), each divided by its mean (RKD; Park et al.
    2019, eq. 5).
    """
    return F.smooth_l1_loss(_relative(wide(student)), _relative(wide(teacher)))


def _relative(vectors: Tensor) -> Tensor:
    squares = vectors.pow(2).sum(1)
    squared = (squares[:, None] + squares[None] - 2 * vectors @ vectors.T).clamp_min(1e-12)
    apart = squared.sqrt() * (1 - torch.eye(len(vectors), dtype=vectors.dtype, device=vectors.device))
    others = max(1, len(vectors) * (len(vectors) - 1))
    return apart / (apart.sum() / others).clamp_min(1e-12)


def angles(teacher: Tensor, student: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles of all triplets of vectors (B, C) (RKD; Park et al. 2019,
    eq. 8).
    """
    return F.smooth_l1_loss(_cosines(wide(student)), _cosines(wide(teacher)))


def _cosines(vectors: Tensor) -> Tensor:
    directions = F.normalize(vectors[None] - vectors[:, None], dim=2)
    return torch.bmm(directions, directions.transpose(1, 2)).flatten()


def first_entry(teacher: Tensor, student: Tensor) -> Tensor:
    """Cross-entropy of logits (B, N) whose right answer is entry 0; the teacher is not used
    (CRD's softmax form).
    """
    return F.cross_entropy(student, torch.zeros(len(student), dtype=torch.long, device=student.device))


def votes(teacher: Tensor, student: Tensor) -> Tensor:
    """Hinge on triplets of neighbours in the batch, ordered as the teachers voted (You et al. 2017, eq. 6).

    ``teacher`` (B,): positive where picture i is nearer to picture i + 1 than to i + 2 by most teachers,
    else negative.
    """
    vectors = F.normalize(wide(student), dim=1)
    near, far = vectors.roll(-1, 0), vectors.roll(-2, 0)
    apart = (vectors - far).pow(2).sum(1) - (vectors - near).pow(2).sum(1)
    return F.relu(1 - torch.sign(teacher) * apart).mean()
