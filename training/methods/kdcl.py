"""KDCL: peers learn from one target that a rule makes of all their answers (Guo et al.; CVPR 2020).

L = sum_m CE(z_m) + lambda KD_2(t -> z_m); each peer sees its own augmentation of the same pictures. The
target t is a constant:

- naive: for each picture the logits of the peer with the lowest cross-entropy;
- linear: the mix of all logits, with weights from the simplex, whose cross-entropy is lowest, by 20 steps of
  exponentiated gradient, or of the best peer alone (deviation: the paper solves for it exactly);
- minlogit: each peer's logits less that of the true class, and of these the least for every class;
- general: a mix with weights from the covariance of the peers' errors on the validation split, renewed every
  epoch; negative weights are clipped (deviation), and without a validation split all weigh the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import means, private
from training.options import Distilled, option
from training.parts import Nodes, Part, Rule
from training.parts.part import wide

STEPS, RATE = 20, 2.0


@dataclass(frozen=True)
class Options(Distilled):
    """Of KDCL."""

    temperature: float = option(2.0, "of every distillation term")
    weight: float = option(1.0, "of what the target teaches")
    target: str = option(
        "minlogit", "the rule that makes the target", "naive", "linear", "minlogit", "general"
    )


def naive(*tensors: Tensor) -> Tensor:
    """(B, K): per picture the logits of the peer with the lowest cross-entropy.

    Reads M logits (B, K) and labels (B,).
    """
    logits, labels = _stacked(tensors)
    losses = torch.stack([F.cross_entropy(each, labels, reduction="none") for each in logits])
    return logits[losses.argmin(0), torch.arange(len(labels), device=labels.device)]


def linear(*tensors: Tensor) -> Tensor:
    """(B, K): per picture the mix of logits with the lowest cross-entropy.

    Reads M logits (B, K) and labels (B,).
    """
    logits, labels = _stacked(tensors)
    truth = F.one_hot(labels, logits.shape[2]).to(logits.dtype)
    weights = logits.new_full(logits.shape[:2], 1 / len(logits))
    best = naive(*tensors)
    least = F.cross_entropy(best, labels, reduction="none")
    for step in range(STEPS):
        mixed = (weights[..., None] * logits).sum(0)
        losses = F.cross_entropy(mixed, labels, reduction="none")
        best = torch.where((losses < least)[:, None], mixed, best)
        least = torch.minimum(losses, least)
        slope = ((torch.softmax(mixed, 1) - truth)[None] * logits).sum(2)
        rate = RATE / (1 + step) / (slope.amax(0) - slope.amin(0)).clamp_min(1e-6)
        weights = torch.softmax(torch.log(weights.clamp_min(1e-12)) - rate * slope, 0)
    return best


def minlogit(*tensors: Tensor) -> Tensor:
    """(B, K): the least over peers of logits less that of the true class.

    Reads M logits (B, K) and labels (B,).
    """
    logits, labels = _stacked(tensors)
    own = logits.gather(2, labels.expand(len(logits), -1)[..., None])
    return (logits - own).min(0).values


def _stacked(tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    return torch.stack([wide(each).detach() for each in tensors[:-1]]), tensors[-1]


class General(Part):
    """The mix of logits (B, K) by weights (M,) that sum to 1, from the errors on the validation split."""

    learns_from_validation = True

    def __init__(self, name: str, peers: list[str]) -> None:
        super().__init__(name, peers)
        self.weights: Tensor
        self.register_buffer("weights", torch.full((len(peers),), 1 / len(peers)))

    def forward(self, *logits: Tensor) -> Nodes:
        """The mix."""
        return {
            self.name: torch.einsum("m,mbk->bk", self.weights, torch.stack([wide(each) for each in logits]))
        }

    def after_epoch(self, nodes: Nodes) -> None:
        """w_i = sum_j (C^-1)_ij / sum_ij (C^-1)_ij with C the correlation of the peers' errors (eq. 12)."""
        labels = nodes["labels"]
        truth = F.one_hot(labels, nodes[self.reads[0]].shape[1]).double()
        errors = torch.stack(
            [(torch.softmax(nodes[name].double(), 1) - truth).flatten() for name in self.reads]
        )
        correlation = errors @ errors.T / len(labels)
        ridge = (
            1e-6
            * correlation.diagonal().mean()
            * torch.eye(len(errors), dtype=torch.float64, device=errors.device)
        )
        weights = torch.linalg.solve(correlation + ridge, torch.ones_like(correlation[0])).clamp_min(0)
        if weights.sum() > 0:
            self.weights.copy_(weights / weights.sum())


RULES = {"naive": naive, "linear": linear, "minlogit": minlogit}


def build(given: Given) -> Cohort:
    """Peers, a view each, and the target."""
    names, rule = given.names, given.options.target
    target: Part = (
        General("target", names) if rule == "general" else Rule("target", [*names, "labels"], RULES[rule])
    )
    return Cohort([*private(given, views=True), *means(names), target], ships=["peer0"])


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels, and the target."""
    names = [peer.name for peer in cohort.peers]
    edges = [Edge("kd_target", "target", name, options.weight, term_of(options)) for name in names]
    return LossGraph(dict.fromkeys(names, 1.0), tuple(edges))


METHOD = Method(
    about="peers learn from a target made of all their answers",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_m CE(z_m) + KD_2(t -> z_m), t = rule(z_1 .. z_M, y)",
    ships="peer0",
    when="unlike networks, where the weaker ones should not pull down the stronger",
    source="Guo et al. 2020, Online Knowledge Distillation via Collaborative Learning",
    least=2,
)
