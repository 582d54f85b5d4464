"""LFMKD: layer-fusion mutual knowledge distillation, a reconstruction.

After the abstract of Hu, Ji, Liang and Han, "Layer-fusion for online mutual knowledge distillation" (Multimedia
Systems 29, 2023), whose full text was not at hand, and after FFL (Kim et al. 2020) where the abstract is silent.
Middle fusions with attention are auxiliary teachers; the end fusion is the ensemble teacher; each peer learns
from the labels and from both; the mean of the peers teaches the end fusion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lfdeploy.errors import UsageError
from lfdeploy.models.backbone import Backbone
from lfdeploy.models.fusion import FusedHead
from training.cohort import Cohort
from training.fusion import AuxiliaryTeacher, auxiliary_head
from training.losses import Edge, LossGraph
from training.methods.method import Method
from training.options import option
from training.schedule import RAMP_SHARE

WIDEST = 512  # of a residual auxiliary head


@dataclass(frozen=True)
class Options:
    """Weights are those of the summed loss; see the method's description in docs."""

    temperature: float = option(3.0, "of every distillation term")
    ramp: float = option(RAMP_SHARE, "share of the epochs over which distillation is ramped up; 0: none")
    label_fused: float = option(1.0, "cross-entropy of the fused classifier")
    label_aux: float = option(1.0, "cross-entropy of each auxiliary teacher")
    lambda_fused: float = option(1.0, "fused classifier teaches peers")
    lambda_aux: float = option(1.0, "auxiliary teachers teach peers (shared among them)")
    lambda_ensemble: float = option(1.0, "mean of the peers teaches the fused classifier")
    lambda_teachers: float = option(0.0, "fused classifier teaches auxiliary teachers")
    taps: str = option("auto", "middle stages to fuse, counted from 1: auto, none, or 1,2")
    share: str = option("none", "leading parts that all peers share", "none", "stem", "stage1", "stage2")
    fuse: str = option("dwpw", "how maps are fused", "dwpw", "pw", "sum")
    attn: str = option("cbam", "attention in middle fusions", "none", "se", "eca", "cbam")
    attn_pos: str = option("fused", "attention before or after the fusion", "fused", "concat")
    aux_head: str = option("auto", "auto: continue for residual nets, else lite", "auto", "gap", "lite", "continue", "dks")
    knowledge: str = option("logits", "what auxiliary teachers pass on", "logits", "maps")
    beta: float = option(1000.0, "weight of the maps' term (knowledge maps)")
    detach_taps: bool = option(False, "fusions and heads do not train the peers")
    fusion_weight_decay: float = option(1e-5, "of fusion operators")


def middle_taps(peers: list[Backbone], size: int, taps: str) -> list[list[int]]:
    """For every tap the stage index of each peer, matched by the side of the map.

    ``auto`` takes peer 0's stages but the last, at most the two deepest. Another peer gives its deepest stage
    of the same side; failing that, the next larger one.
    """
    shapes = [peer.shapes(size) for peer in peers]
    last = len(shapes[0]) - 1
    if taps == "none":
        return []
    if taps == "auto":
        chosen = list(range(last))[-2:]
    else:
        try:
            chosen = [int(part) - 1 for part in taps.split(",")]
        except ValueError:
            raise UsageError(f"-o taps is '{taps}'; write auto, none, or stages like 1,2.") from None
        wrong = [i + 1 for i in chosen if not 0 <= i < last]
        if wrong:
            raise UsageError(f"-o taps names stage {wrong[0]}; middle stages of this network are 1 to {last}.")
    found = []
    for stage in chosen:
        side, row = shapes[0][stage][1], [stage]
        for other in shapes[1:]:
            middle = range(max(1, len(other) - 1))
            equal = [i for i in middle if other[i][1] == side]
            larger = [i for i in middle if other[i][1] > side]
            row.append(equal[-1] if equal else larger[-1] if larger else 0)
        found.append(row)
    return found


def build(peers: list[Backbone], classes: int, size: int, options: Any) -> Cohort:
    """Peers, one auxiliary teacher per middle tap, and the end fusion."""
    if not 0 < options.temperature < float("inf"):
        raise UsageError(f"-o temperature is {options.temperature}; it must be greater than 0.")
    shapes = [peer.shapes(size) for peer in peers]
    share = {"none": 0, "stem": 1, "stage1": 2, "stage2": 3}[options.share]
    taps = middle_taps(peers, size, options.taps)
    if share and len({tuple((k, v.shape) for k, v in peer.state_dict().items()) for peer in peers}) > 1:
        raise UsageError(f"-o share {options.share} needs peers of one architecture.")
    if share and any(min(row) < share - 1 for row in taps):
        raise UsageError(f"-o share {options.share} would fuse a map with itself; add -o taps none, or share less.")
    if share > len(shapes[0]):
        raise UsageError(f"-o share {options.share}: this network has only {len(shapes[0])} stages.")
    ends = [s[-1][0] for s in shapes]
    if options.fuse == "sum" and len(set(ends)) > 1:
        raise UsageError("-o fuse sum needs peers with equal channels; take dwpw.")
    residual = any(type(block).__name__ == "BasicBlock" for block in peers[0].stages[-1].children())
    kind = options.aux_head if options.aux_head != "auto" else "continue" if residual else "lite"
    teachers = []
    for row in taps:
        channels = [shapes[m][stage][0] for m, stage in enumerate(row)]
        rest = list(peers[0].stages)[row[0] + 1 :]
        widths = [min(shapes[0][row[0] + 1 + j][0], WIDEST) for j in range(len(rest))]
        blocks = [len(list(stage.children())) for stage in rest]
        head = auxiliary_head(kind, max(channels), widths, blocks, classes)
        teachers.append(AuxiliaryTeacher(channels, options.fuse, options.attn, options.attn_pos, head))
    return Cohort(
        peers,
        teachers=teachers,
        taps=taps,
        fused=FusedHead(ends, classes, options.fuse),
        share=share,
        detach_taps=options.detach_taps,
        fusion_weight_decay=options.fusion_weight_decay,
    )


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """L = CE of peers, fused, auxiliary + w(e) (fused -> peers + auxiliary -> peers + ensemble -> fused)."""
    peers = [f"peer{i}" for i in range(len(cohort.peers))]
    aux = [f"aux{i}" for i in range(len(cohort.aux))]
    labels = dict.fromkeys(peers, 1.0) | {"fused": options.label_fused} | dict.fromkeys(aux, options.label_aux)
    t = options.temperature
    edges = [Edge("kd_fused", "fused", p, options.lambda_fused, t) for p in peers]
    for a in aux:
        share = 1 / len(aux)
        if options.knowledge == "maps":
            edges += [Edge("maps_aux", a, f"{p}_{a}", options.beta * share, maps=True) for p in peers]
        else:
            edges += [Edge("kd_aux", a, p, options.lambda_aux * share, t) for p in peers]
        edges.append(Edge("kd_teachers", "fused", a, options.lambda_teachers * share, t))
    edges.append(Edge("kd_ensemble", "ensemble", "fused", options.lambda_ensemble, t))
    return LossGraph(
        {node: weight for node, weight in labels.items() if weight},
        tuple(edge for edge in edges if edge.weight),
        options.ramp,
    )


METHOD = Method("layer fusion: auxiliary teachers in the middle, an ensemble teacher at the end", Options, build, graph)
