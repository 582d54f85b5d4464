"""BYOT: a network's deepest classifier and map teach its shallower ones (Zhang et al.; ICCV 2019).

L = CE(z) + sum_h ((1 - a) CE(z_h) + a KD_3(z -> z_h) + b |F_h - F|^2), a = 0.3, b = 0.03, F the last map's
mean. Deviations: the auxiliary heads are those of the other methods here, and the hint compares pooled
vectors through a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from training.cohort import Cohort
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import heads, heads_of, means, middle_stages, private
from training.options import Distilled, option
from training.parts import Nodes, Part
from training.terms import hint


@dataclass(frozen=True)
class Options(Distilled):
    """Of BYOT."""

    share: float = option(
        0.3, "of the deepest classifier in what a shallower one learns; the rest is the labels'"
    )
    hint: float = option(0.03, "weight of the distance to the deepest map")
    heads: str = option(
        "auto", "auto: continue for residual nets, else lite", "auto", "gap", "lite", "continue", "dks"
    )


class Projected(Part):
    """The mean of a map (B, C, H, W) brought to another width by a linear layer: (B, D)."""

    def __init__(self, name: str, read: str, channels: int, width: int) -> None:
        super().__init__(name, (read,))
        self.linear = nn.Linear(channels, width)

    def forward(self, x: Tensor) -> Nodes:
        """The vector."""
        return {self.name: self.linear(x.mean((2, 3)))}


def build(given: Given) -> Cohort:
    """Networks with auxiliary classifiers and projections of their middle maps."""
    parts, extra, fits = private(given, vector=True), [], []
    for index, network in enumerate(given.peers):
        name, shapes = given.names[index], network.shapes(given.size)
        extra += heads(given, index, given.options.heads)
        fits += [
            Projected(f"{name}_fit{number}", f"{name}.map{stage}", shapes[stage][0], shapes[-1][0])
            for number, stage in enumerate(middle_stages(network, given.frozen))
        ]
    return Cohort(
        [*parts, *means(given.names), *extra, *fits], ships=["peer0"], watched=[head.name for head in extra]
    )


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """The deepest teaches the others, by its logits and its map."""
    term, edges = term_of(options), []
    labels = dict.fromkeys((peer.name for peer in cohort.peers), 1.0)
    for peer in cohort.peers:
        for number, head in enumerate(heads_of(cohort, peer.name)):
            labels[head] = 1 - options.share
            edges.append(Edge("kd_deepest", peer.name, head, options.share, term))
            edges.append(Edge("hint", f"{peer.name}.vector", f"{peer.name}_fit{number}", options.hint, hint))
    return LossGraph(labels, tuple(edges))


METHOD = Method(
    about="a network's deepest classifier and map teach its shallower ones",
    options=Options,
    build=build,
    graph=graph,
    loss="CE(z) + sum_h (0.7 CE(z_h) + 0.3 KD_3(z -> z_h) + 0.03 |F_h - F|^2)",
    ships="peer0",
    when="one network and no teacher",
    source="Zhang et al. 2019, Be Your Own Teacher",
    group="self",
    peers=1,
)
