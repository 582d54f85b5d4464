"""FFL: feature fusion learning (Kim, Hyun, Chung, Kwak; ICPR 2020): LFMKD without middle fusions.

Peers are private by default; ``-o share stage2`` is the released CIFAR model, whose branches part before
stage 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from training.cohort import Cohort
from training.losses import LossGraph
from training.methods import lfmkd
from training.methods.method import Given, Method
from training.options import SHARES, Distilled, option
from training.schedule import RAMP_SHARE


@dataclass(frozen=True)
class Options(Distilled):
    """FFL's own settings; everything else is LFMKD with empty middle taps."""

    ramp: float = option(RAMP_SHARE, "share of the epochs over which distillation is ramped up; 0: none")
    lambda_fused: float = option(1.0, "fused classifier teaches peers")
    lambda_ensemble: float = option(1.0, "mean of the peers teaches the fused classifier")
    share: str = option("none", "leading parts that all peers share", *SHARES)
    fusion_weight_decay: float = option(1e-5, "of the fusion operator")


def _as_lfmkd(options: Options) -> lfmkd.Options:
    return lfmkd.Options(taps="none", **vars(options))


def build(given: Given) -> Cohort:
    """Peers and the end fusion."""
    return lfmkd.build(replace(given, options=_as_lfmkd(given.options)))


def graph(cohort: Cohort, options: Options) -> LossGraph:
    """L = CE of peers and fused + w(e) (fused -> peers + ensemble -> fused)."""
    return lfmkd.graph(cohort, _as_lfmkd(options))


METHOD = Method(
    about="feature fusion at the end only; a special case of lfmkd",
    options=Options,
    build=build,
    graph=graph,
    loss="sum_m CE(z_m) + CE(z_f) + w (sum_m KD_3(z_f -> z_m) + KD_3(mean z -> z_f))",
    ships="fused, or peer0 at one network's cost",
    when="two or more networks that teach each other through their fusion; little more than their own cost",
    source="Kim et al. 2020, Feature Fusion for Online Mutual Knowledge Distillation",
)
