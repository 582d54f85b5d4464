"""LFMKD: layer-fusion mutual knowledge distillation, a reconstruction.

After the abstract of Hu, Ji, Liang and Han, "Layer-fusion for online mutual knowledge distillation"
(Multimedia Systems 29, 2023), whose full text was not at hand, and after FFL (Kim et al. 2020) where the
abstract is silent. Middle fusions with attention are auxiliary teachers; the end fusion is the ensemble
teacher; each peer learns from the labels and from both; the mean of the peers teaches the end fusion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lfdeploy.errors import UsageError
from lfdeploy.models.backbone import Backbone
from lfdeploy.models.fusion import FusedHead
from training.cohort import Cohort
from training.fusion import AuxiliaryTeacher
from training.losses import Edge, LossGraph
from training.methods.method import Given, Method, term_of
from training.methods.shared import auxiliary, branches, check_alike, heads, means, middle_stages
from training.options import SHARES, Distilled, option, parts_shared
from training.parts import Auxiliary, FusedPart, Part
from training.schedule import RAMP_SHARE, Ramp
from training.terms import attention_distance


@dataclass(frozen=True)
class Options(Distilled):
    """Weights are those of the summed loss; see the method's description in docs.

    The abstract has attention in the middle fusions. On CIFAR-100 this did better without (docs/results.md),
    so it is there when asked for.
    """

    ramp: float = option(RAMP_SHARE, "share of the epochs over which distillation is ramped up; 0: none")
    label_fused: float = option(1.0, "cross-entropy of the fused classifier")
    label_aux: float = option(1.0, "cross-entropy of each auxiliary teacher")
    lambda_fused: float = option(1.0, "fused classifier teaches peers")
    lambda_aux: float = option(1.0, "auxiliary teachers teach peers (shared among them)")
    lambda_ensemble: float = option(1.0, "mean of the peers teaches the fused classifier")
    lambda_teachers: float = option(0.0, "fused classifier teaches auxiliary teachers")
    taps: str = option("auto", "middle stages to fuse, counted from 1: auto, none, or 1,2")
    share: str = option("none", "leading parts that all peers share", *SHARES)
    fuse: str = option("dwpw", "how maps are fused", "dwpw", "pw", "sum")
    attn: str = option("none", "attention in middle fusions", "none", "se", "eca", "cbam", "at", "bilinear")
    attn_pos: str = option(
        "fused",
        "attention after the fusion, before it on all maps, or on each peer's",
        "fused",
        "concat",
        "peer",
    )
    aux_head: str = option(
        "auto", "auto: continue for residual nets, else lite", "auto", "gap", "lite", "continue", "dks"
    )
    aux_of: str = option(
        "fusion", "auxiliary teachers on fused maps, or on each peer's own", "fusion", "peer"
    )
    knowledge: str = option("logits", "what auxiliary teachers pass on", "logits", "maps", "both")
    aux_teach: str = option(
        "all", "pictures that auxiliary teachers teach: all, or those they answer better", "all", "better"
    )
    beta: float = option(1000.0, "weight of the maps' term (knowledge maps, both)")
    detach_taps: bool = option(False, "fusions and heads do not train the peers")
    fusion_weight_decay: float = option(1e-5, "of fusion operators")


def middle_taps(peers: list[Backbone], size: int, taps: str, frozen: int = 0) -> list[list[int]]:
    """For every tap the stage index of each peer, matched by the side of the map.

    ``auto`` takes peer 0's stages but the last, at most the two deepest. Another peer gives its deepest stage
    of the same side; failing that, the next larger one. With ``frozen`` leading parts it takes none: a fresh
    head on the map between them and a trained end was half as good as the peers that it would have taught.
    """
    shapes = [peer.shapes(size) for peer in peers]
    last = len(shapes[0]) - 1
    if taps == "none":
        return []
    if taps == "auto":
        chosen = [] if frozen else middle_stages(peers[0])
    else:
        try:
            chosen = [int(part) - 1 for part in taps.split(",")]
        except ValueError:
            raise UsageError(f"-o taps is '{taps}'; write auto, none, or stages like 1,2.") from None
        wrong = [i + 1 for i in chosen if not 0 <= i < last]
        if wrong:
            raise UsageError(
                f"-o taps names stage {wrong[0]}; middle stages of this network are 1 to {last}."
            )
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


def build(given: Given) -> Cohort:
    """Peers, one auxiliary teacher per middle tap, and the end fusion."""
    options, peers, names = given.options, given.peers, given.names
    shapes = [peer.shapes(given.size) for peer in peers]
    taps = middle_taps(peers, given.size, options.taps, given.frozen)
    ends = [s[-1][0] for s in shapes]
    maps = [[s[stage][0] for s, stage in zip(shapes, row, strict=True)] for row in taps]
    _check(given, taps, [ends] if options.aux_of == "peer" else [ends, *maps])
    teachers = _own_heads(given) if options.aux_of == "peer" else _fused_heads(given, taps)
    reads = [f"{name}.map{len(s) - 1}" for name, s in zip(names, shapes, strict=True)]
    fused = FusedPart("fused", reads, FusedHead(ends, given.classes, options.fuse), options.detach_taps)
    parts = branches(given, parts_shared(options.share))
    return Cohort(
        [*parts, *teachers, fused, *means(names)],
        ships=["fused", "peer0"],
        watched=[teacher.name for teacher in teachers],
        fusion_weight_decay=options.fusion_weight_decay,
    )


def _check(given: Given, taps: list[list[int]], channels: list[list[int]]) -> None:
    """Raise `UsageError` where trunks leave nothing to fuse or to read, or a sum has unequal terms.

    ``channels``: of the maps that are fused, a row for each fusion.
    """
    options, share = given.options, parts_shared(given.options.share)
    if options.attn == "none" and options.attn_pos != "fused":
        raise UsageError(
            f"-o attn_pos {options.attn_pos} has no meaning without attention; add -o attn cbam, or drop it."
        )
    if share:
        check_alike(given.peers)
    if options.aux_of == "peer" and share - 1 > min(middle_stages(given.peers[0]), default=0):
        raise UsageError(
            f"-o share {options.share} leaves -o aux_of peer no maps of the peers' own; share less."
        )
    if options.aux_of != "peer" and share and any(min(row) < share - 1 for row in taps):
        raise UsageError(
            f"-o share {options.share} would fuse a map with itself; add -o taps none, or share less."
        )
    if options.fuse == "sum" and any(len(set(row)) > 1 for row in channels):
        raise UsageError("-o fuse sum needs peers with equal channels; take dwpw.")


def _fused_heads(given: Given, taps: list[list[int]]) -> list[Part]:
    """``aux0``..: for each tap the fused maps of all peers, and a head after peer 0's remaining stages."""
    options = given.options
    shapes = [peer.shapes(given.size) for peer in given.peers]
    teachers: list[Part] = []
    for number, row in enumerate(taps):
        channels = [shapes[m][stage][0] for m, stage in enumerate(row)]
        head = auxiliary(given.peers[0], row[0], max(channels), shapes[0], given.classes, options.aux_head)
        module = AuxiliaryTeacher(channels, options.fuse, options.attn, options.attn_pos, head)
        reads = [f"{name}.map{stage}" for name, stage in zip(given.names, row, strict=True)]
        teachers.append(Auxiliary(f"aux{number}", reads, module, options.detach_taps))
    return teachers


def _own_heads(given: Given) -> list[Part]:
    """Without fusion, as in DCM: heads on every peer's own middle maps, which teach the other peers."""
    if given.options.knowledge != "logits":
        raise UsageError(
            f"-o aux_of peer passes on logits alone; drop -o knowledge {given.options.knowledge}."
        )
    return [head for i in range(len(given.peers)) for head in heads(given, i, given.options.aux_head)]


def graph(cohort: Cohort, options: Any) -> LossGraph:
    """L = CE of peers, fused, auxiliary + w(e) (fused -> peers + auxiliary -> peers + ensemble -> fused)."""
    peers, aux = [peer.name for peer in cohort.peers], list(cohort.watched)
    labels = (
        dict.fromkeys(peers, 1.0) | {"fused": options.label_fused} | dict.fromkeys(aux, options.label_aux)
    )
    term, share = term_of(options), 1 / max(1, len(aux))
    edges = [Edge("kd_fused", "fused", p, options.lambda_fused, term) for p in peers]
    for a in aux:
        others = [p for p in peers if not a.startswith(f"{p}_")] if options.aux_of == "peer" else peers
        if options.knowledge in ("maps", "both"):
            own = attention_distance
            edges += [
                Edge("maps_aux", f"{a}.map", f"{a}.in{i}", options.beta * share, own)
                for i in range(len(peers))
            ]
        if options.knowledge in ("logits", "both"):
            better = options.aux_teach == "better"
            edges += [
                Edge("kd_aux", a, p, options.lambda_aux * share, term, if_better=better) for p in others
            ]
        edges.append(Edge("kd_teachers", "fused", a, options.lambda_teachers * share, term))
    edges.append(Edge("kd_ensemble", "ensemble", "fused", options.lambda_ensemble, term))
    used = {node: weight for node, weight in labels.items() if weight}
    return LossGraph(used, tuple(edge for edge in edges if edge.weight), Ramp(options.ramp))


METHOD = Method(
    about="layer fusion: auxiliary teachers in the middle, an ensemble teacher at the end",
    options=Options,
    build=build,
    graph=graph,
    loss="sum CE(z_m), CE(z_f), CE(a_s) + w (sum_m KD_3(z_f -> z_m) + 1/S sum_s,m KD_3(a_s -> z_m) + "
    "KD_3(mean z -> z_f))",
    ships="fused, or peer0 at one network's cost",
    when="the subject of this project: a reconstruction, whose peers gained a little over independent "
    "networks where it was measured (docs/results.md)",
    source="after the abstract of Hu et al. 2022, Layer-fusion for online mutual knowledge distillation",
)
