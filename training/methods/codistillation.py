"""Codistillation: peers learn from stale copies of the others (Anil et al.; ICLR 2018).

L_m = CE(z_m) + w cross-entropy of p_m to the mean prediction of the others' stale copies, from a burn-in on.
Deviations: all on one machine and on the same pictures; the constant entropy of the target is left out, which
changes no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import means, private
from training.options import Distilled, option, within
from training.parts import Copy, Peer, Rule
from training.parts.part import wide
from training.schedule import Ramp


@dataclass(frozen=True)
class Options(Distilled):
    """Of codistillation."""

    temperature: float = option(1.0, "of every distillation term")
    weight: float = option(1.0, "of what the stale copies teach")
    every: int = option(50, "steps after which the stale copies are taken anew")
    burn_in: float = option(0.1, "share of the epochs before they begin to teach")

    def __post_init__(self) -> None:
        super().__post_init__()
        within("every", self.every, 1)
        within("burn_in", self.burn_in, 0, 1)


def log_mean(*logits: Tensor) -> Tensor:
    """Logarithm of the mean prediction (B, K) of several logits (B, K)."""
    predictions = torch.stack([torch.log_softmax(wide(each), 1) for each in logits])
    return torch.logsumexp(predictions, 0) - torch.log(torch.tensor(float(len(logits))))


def build(given: Given) -> Cohort:
    """Peers, their stale copies, and for each peer the mean prediction of the others' copies."""
    peers, names = private(given), given.names
    stale = [
        Copy(f"stale_{peer.name}", peer, every=given.options.every)
        for peer in peers
        if isinstance(peer, Peer)
    ]
    targets = [
        Rule(f"others_{name}", [f"stale_{other}" for other in names if other != name], log_mean)
        for name in names
    ]
    return Cohort(
        [*peers, *means(names), *stale, *targets], ships=["peer0"], hidden=[copy.name for copy in stale]
    )


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels, and stale copies after the burn-in."""
    names = [peer.name for peer in cohort.peers]
    edges = [Edge("kd_stale", f"others_{name}", name, options.weight, term_of(options)) for name in names]
    return LossGraph(dict.fromkeys(names, 1.0), tuple(edges), Ramp(options.burn_in, burn_in=True))


METHOD = Method(
    about="peers learn from stale copies of the others",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_m CE(z_m) + H(mean_{j != m} p_j(stale), p_m)",
    ships="peer0",
    when="what large distributed trainings do: peers need each other only now and then",
    source="Anil et al. 2018, Large scale distributed neural network training through online distillation",
    least=2,
)
