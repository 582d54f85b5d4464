"""DualNet: networks whose mean map one classifier reads (Hou, Liu, Wang; ICCV 2017). No distillation.

L = CE(z_f) + 0.3 sum_m CE(z_m), with the fused map the mean of the last maps. Deviation: the paper trains one
extractor after the other and starts from a trained network; here all are trained together, from scratch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lfdeploy.errors import UsageError
from lfdeploy.models.fusion import FusedHead
from training.cohort import Cohort
from training.losses import LossGraph
from training.methods.method import Given, Method
from training.methods.shared import means, private
from training.options import option
from training.parts import FusedPart


@dataclass(frozen=True)
class Options:
    """Of DualNet."""

    label_peers: float = option(0.3, "cross-entropy of each network's own classifier")


def build(given: Given) -> Cohort:
    """Private networks and a classifier on the mean of their last maps."""
    shapes = [peer.shapes(given.size) for peer in given.peers]
    channels = [each[-1][0] for each in shapes]
    if len(set(channels)) > 1:
        raise UsageError(
            f"Method dualnet takes the mean of the last maps: equal channels are needed, not {channels}."
        )
    reads = [f"{name}.map{len(each) - 1}" for name, each in zip(given.names, shapes, strict=True)]
    fused = FusedPart("fused", reads, FusedHead(channels, given.classes, "sum"))
    return Cohort([*private(given), fused, *means(given.names)], ships=["fused"])


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """Labels alone."""
    labels = dict.fromkeys((peer.name for peer in cohort.peers), options.label_peers)
    return LossGraph({node: weight for node, weight in ({"fused": 1.0} | labels).items() if weight})


METHOD = Method(
    about="networks whose mean map one classifier reads; no distillation",
    options=Options,
    build=build,
    graph=graph,
    loss="CE(z_f) + 0.3 sum_m CE(z_m)",
    ships="fused",
    when="the control for fusion without distillation",
    source="Hou et al. 2017, DualNet: Learn Complementary Features for Image Recognition",
)
