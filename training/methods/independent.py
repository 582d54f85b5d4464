"""Peers that share a loop and nothing else: the baseline of every comparison.

``-o heads auto`` adds auxiliary classifiers on each peer's middle maps, which are trained by the labels
alone: deep supervision (Lee et al. 2015), the control for every method that has such heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.cohort import Cohort
from training.losses import LossGraph
from training.methods.method import Given, Method
from training.methods.shared import heads, means, private
from training.options import option


@dataclass(frozen=True)
class Options:
    """Of the baseline."""

    heads: str = option(
        "none",
        "auxiliary classifiers on each peer's middle maps",
        "none",
        "auto",
        "gap",
        "lite",
        "continue",
        "dks",
    )


def build(given: Given) -> Cohort:
    """The peers, and heads if asked for."""
    parts = private(given)
    kind = given.options.heads
    extra = (
        [head for i in range(len(given.peers)) for head in heads(given, i, kind)] if kind != "none" else []
    )
    return Cohort(
        [*parts, *means(given.names), *extra], ships=["peer0"], watched=[head.name for head in extra]
    )


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Cross-entropy of every classifier."""
    return LossGraph(dict.fromkeys([*(peer.name for peer in cohort.peers), *cohort.watched], 1.0))


METHOD = Method(
    about="each peer alone, labels only: the baseline",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_m CE(z_m)",
    ships="peer0",
    when="a plain network (--peers 1), or the control of a comparison",
    source="none",
    group="baseline",
)
