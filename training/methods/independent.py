"""Peers that share a loop and nothing else: the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

from lfdeploy.models.backbone import Backbone
from training.cohort import Cohort
from training.losses import LossGraph
from training.methods.method import Method


@dataclass(frozen=True)
class Options:
    """None."""


def build(peers: list[Backbone], classes: int, size: int, options: Options) -> Cohort:
    """The peers alone."""
    return Cohort(peers)


def graph(cohort: Cohort, options: Options) -> LossGraph:
    """Cross-entropy of every peer."""
    return LossGraph({f"peer{i}": 1.0 for i in range(len(cohort.peers))})


METHOD = Method("each peer alone, labels only: the baseline", Options, build, graph)
