"""CL-ILR: heads behind shared layers learn from the mean of the others (Song and Chai; NeurIPS 2018).

L = sum_m beta CE(z_m) + (1 - beta) KD_2(mean of the others -> z_m), beta = 1/2; at the split the gradient of
the shared layers is divided by the number of heads. Deviation: one split instead of a tree of splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import all_but_last, branches, means
from training.options import Distilled, option
from training.parts import Mean


@dataclass(frozen=True)
class Options(Distilled):
    """Of CL-ILR."""

    temperature: float = option(2.0, "of every distillation term")
    beta: float = option(0.5, "share of the labels; the rest is what the other heads teach")
    share: str = option(
        "auto",
        "leading parts that all share; auto: all stages but the last",
        "auto",
        "none",
        "stem",
        "stage1",
        "stage2",
    )


def build(given: Given) -> Cohort:
    """Branches, and for each the mean of the others."""
    skip, names = all_but_last(given, given.options.share), given.names
    parts = branches(given, skip, scale=1 / len(names))
    others = [Mean(f"others_{name}", [other for other in names if other != name]) for name in names]
    return Cohort([*parts, *means(names), *others], ships=["peer0"])


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels and the mean of the others."""
    names = [peer.name for peer in cohort.peers]
    edges = [Edge("kd_others", f"others_{name}", name, 1 - options.beta, term_of(options)) for name in names]
    return LossGraph(dict.fromkeys(names, options.beta), tuple(edges))


METHOD = Method(
    about="heads behind shared layers learn from the mean of the others",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_m beta CE(z_m) + (1-beta) KD_2(mean_{j != m} z_j -> z_m)",
    ships="peer0",
    when="several heads for little more than one network's cost",
    source="Song and Chai 2018, Collaborative Learning for Deep Neural Networks",
    peers=4,
    least=2,
)
