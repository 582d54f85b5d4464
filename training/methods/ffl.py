"""FFL: feature fusion learning (Kim, Hyun, Chung, Kwak; ICPR 2020): LFMKD without middle fusions.

Peers are private by default; ``-o share stage2`` is the released CIFAR model, whose branches part before stage 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from lfdeploy.models.backbone import Backbone
from training.cohort import Cohort
from training.losses import LossGraph
from training.methods import lfmkd
from training.methods.method import Method
from training.options import option
from training.schedule import RAMP_SHARE


@dataclass(frozen=True)
class Options:
    """FFL's own settings; everything else is LFMKD with empty middle taps."""

    temperature: float = option(3.0, "of every distillation term")
    ramp: float = option(RAMP_SHARE, "share of the epochs over which distillation is ramped up; 0: none")
    lambda_fused: float = option(1.0, "fused classifier teaches peers")
    lambda_ensemble: float = option(1.0, "mean of the peers teaches the fused classifier")
    share: str = option("none", "leading parts that all peers share", "none", "stem", "stage1", "stage2")
    fusion_weight_decay: float = option(1e-5, "of the fusion operator")


def _as_lfmkd(options: Options) -> lfmkd.Options:
    return lfmkd.Options(taps="none", **vars(options))


def build(peers: list[Backbone], classes: int, size: int, options: Options) -> Cohort:
    """Peers and the end fusion."""
    return lfmkd.build(peers, classes, size, _as_lfmkd(options))


def graph(cohort: Cohort, options: Options) -> LossGraph:
    """L = CE of peers and fused + w(e) (fused -> peers + ensemble -> fused)."""
    return lfmkd.graph(cohort, _as_lfmkd(options))


METHOD = Method("feature fusion at the end only; a special case of lfmkd", Options, build, graph)
