"""How far two sets of logits are apart, in numbers that separate healthy exports from broken ones.

Absolute differences say little without the logits' scale, agreement says little without the margin of what
flipped, and two accuracies say little unless they are compared picture by picture.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Comparison:
    """Reference against subject over n pictures.

    Differences are divided by ``scale``, the largest reference logit.

    ``flip_margin`` is the largest reference margin (top 1 minus top 2, scaled) among pictures whose label
    changed. ``slope`` is the least-squares factor from reference to subject, each row's mean taken off, and
    ``bias`` the largest mean shift of one class, scaled: rounding noise averages out of both, a fault does
    not. ``ci_low`` and ``ci_high`` bound the change of accuracy in points (paired, 95 %); ``mcnemar``
    is exact.
    """

    images: int
    scale: float
    max_difference: float
    mean_difference: float
    cosine_min: float
    slope: float
    bias: float
    kl_mean: float
    kl_max: float
    probability_max: float
    agreement: float
    class_agreement_min: float
    flips: int
    flip_margin: float
    top1_reference: float
    top1: float
    only_reference_right: int
    only_subject_right: int
    ci_low: float
    ci_high: float
    mcnemar: float

    def document(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Row by row, in float64."""
    x = logits.astype(np.float64)
    x = x - x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)))


def compare(reference: Floats, subject: Floats, labels: NDArray[np.int64]) -> Comparison:
    """All statistics of logits (N, K) against logits (N, K) with true labels (N,). Both must be finite."""
    ref, sub = reference.astype(np.float64), subject.astype(np.float64)
    scale = float(np.abs(ref).max()) or 1.0
    difference = np.abs(sub - ref) / scale
    log_r, log_s = log_softmax(ref), log_softmax(sub)
    kl = (np.exp(log_r) * (log_r - log_s)).sum(1).clip(min=0)
    norms = np.linalg.norm(ref, axis=1) * np.linalg.norm(sub, axis=1)
    cosine = (ref * sub).sum(1) / np.maximum(norms, 1e-12)
    centred_r, centred_s = ref - ref.mean(1, keepdims=True), sub - sub.mean(1, keepdims=True)
    top_r, top_s = ref.argmax(1), sub.argmax(1)
    flipped = top_r != top_s
    two = np.partition(ref, -2, axis=1)[:, -2:]
    margin = (two[:, 1] - two[:, 0]) / scale
    by_class = [float((~flipped[top_r == k]).mean()) for k in np.unique(top_r) if (top_r == k).sum() >= 10]
    right_r, right_s = top_r == labels, top_s == labels
    n = len(ref)
    n10, n01 = int((right_r & ~right_s).sum()), int((~right_r & right_s).sum())
    low, high = paired_interval(n01, n10, n)
    return Comparison(
        images=n,
        scale=scale,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        cosine_min=float(cosine.min()),
        slope=float((centred_r * centred_s).sum() / max((centred_r**2).sum(), 1e-300)),
        bias=float(np.abs((sub - ref).mean(0)).max()) / scale,
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        probability_max=float(np.abs(np.exp(log_s) - np.exp(log_r)).max()),
        agreement=100 * float((~flipped).mean()),
        class_agreement_min=100 * min(by_class, default=1.0),
        flips=int(flipped.sum()),
        flip_margin=float(margin[flipped].max()) if flipped.any() else 0.0,
        top1_reference=100 * float(right_r.mean()),
        top1=100 * float(right_s.mean()),
        only_reference_right=n10,
        only_subject_right=n01,
        ci_low=low,
        ci_high=high,
        mcnemar=mcnemar(n01, n10),
    )


def paired_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """95 % interval of the change of accuracy in points, from the discordant pairs."""
    change = (gained - lost) / n
    spread = 1.96 * math.sqrt(max(gained + lost - (gained - lost) ** 2 / n, 0.0)) / n
    return 100 * (change - spread), 100 * (change + spread)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of McNemar's test: are gains and losses equally likely?"""
    n = gained + lost
    if n == 0:
        return 1.0
    few = min(gained, lost)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(few + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(x) for x in logs))


def permutation(reference: Floats, subject: Floats, bound: float) -> list[tuple[int, int]]:
    """The classes (i, j) whose outputs changed places, if a permutation of columns alone explains
    the difference.
    """
    ref, sub = reference.astype(np.float64), subject.astype(np.float64)
    scale = float(np.abs(ref).max()) or 1.0
    apart = np.array([np.abs(sub - ref[:, [k]]).max(0) for k in range(ref.shape[1])]) / scale
    source = apart.argmin(0)  # subject's column j holds reference's column source[j]
    moved = [(int(i), j) for j, i in enumerate(source) if i != j]
    if not moved or sorted(source) != list(range(len(source))) or apart.min(0).max() > bound:
        return []
    return moved
