"""Temperature scaling (Guo et al. 2017) and a threshold to abstain below, in numbers: numpy alone, no
pictures, no network.

Confidence is the top probability. Shares (ECE, coverage, accuracies) are in %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.numbers.statistics import Floats, log_softmax

BINS = 15
COLDEST, HOTTEST = 0.1, 10.0
ROOM = 1e-3
ALPHA = 0.05  # the lower bounds below are one-sided, 95 %


@dataclass(frozen=True)
class Bins:
    """Pictures in bins of equal mass by rising confidence: mean confidence, accuracy and count of each (B,);
    the first two in 0..1.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error, %."""
        return float(100 * (self.count * np.abs(self.confidence - self.accuracy)).sum() / self.count.sum())


@dataclass(frozen=True)
class Threshold:
    """Answers from confidence ``value`` on: how many pictures have one, how many of these are right, and the
    lower bound, %.
    """

    value: float
    answered: int
    right: int
    bound: float


def probabilities(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """softmax(logits / T), (N, K), in float64."""
    return np.exp(log_softmax(logits.astype(np.float64) / temperature))


def nll(logits: Floats, labels: NDArray[np.int64], temperature: float) -> float:
    """Mean negative log-likelihood of the labels, nats."""
    return float(-log_softmax(logits.astype(np.float64) / temperature)[np.arange(len(labels)), labels].mean())


def fit(logits: Floats, labels: NDArray[np.int64]) -> tuple[float | None, str]:
    """T of least NLL on logits (N, K), to four digits; or None and why there is none.

    In b = 1 / T the NLL is convex, and its slope is the mean of E_p[logit] - logit of the label: bisection of
    the slope's sign ends at the one minimum, the same on every machine.
    """
    if not np.isfinite(logits).all():
        return None, "the network gives logits that are not finite"
    z = logits.astype(np.float64)
    own = z[np.arange(len(labels)), labels]

    def slope(b: float) -> float:
        return float(((probabilities(z, 1 / b) * z).sum(1) - own).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if not slope(high) > 0:
        edge = f"where T falls below {COLDEST:g}: nearly every picture is right"
        return None, f"the likelihood of the labels still grows {edge}"
    if not slope(low) < 0:
        edge = f"where T rises above {HOTTEST:g}: the network is little better than chance"
        return None, f"the likelihood of the labels still grows {edge}"
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(f"{2 / (low + high):.4g}"), ""


def reliability(logits: Floats, labels: NDArray[np.int64], temperature: float, bins: int = BINS) -> Bins:
    """The data of a reliability diagram. Fewer pictures than bins make a bin each."""
    p = probabilities(logits, temperature)
    top, right = p.max(1), p.argmax(1) == labels
    parts = np.array_split(np.argsort(top, kind="stable"), min(bins, len(top)))
    return Bins(
        np.array([top[part].mean() for part in parts]),
        np.array([right[part].mean() for part in parts]),
        np.array([len(p) for p in parts]),
    )


def tail(right: int, n: int, p: float) -> float:
    """Probability of at least ``right`` of n pictures right when each is with probability p: the exact
    binomial test.
    """
    if p <= 0 or p >= 1:
        return float(p >= 1 or right == 0)
    logs = (
        _log_choose(n, wrong) + (n - wrong) * math.log(p) + wrong * math.log1p(-p)
        for wrong in range(n - right + 1)
    )
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def lower_bound(right: int, n: int, alpha: float = ALPHA) -> float:
    """Clopper and Pearson's exact one-sided lower bound of an accuracy, %: what would give so many right in
    ``alpha`` of all draws.
    """
    low, high = 0.0, right / n
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(right, n, middle) <= alpha else (low, middle)
    return 100 * low


def find_threshold(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], target: float
) -> Threshold | None:
    """The smallest threshold whose answered pictures have an accuracy of which the lower bound is ``target``
    % or more.

    Pictures of equal confidence are answered together. The value lies `ROOM` below the least sure of them, or
    halfway to the next picture where that is nearer, so that rounding moves none across. The bound is that of
    one threshold, not of the best of many: where confidence says nothing of being right it is optimistic.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_, so_far = confidence[order], np.cumsum(right[order])
    n = len(sorted_)
    ends = np.flatnonzero(np.append(sorted_[1:] < sorted_[:-1], True))  # the last of each group of equals
    for end in ends[::-1]:
        k, answered = int(so_far[end]), int(end) + 1
        if 100 * k >= target * answered and tail(k, answered, target / 100) <= ALPHA:
            least, below = float(sorted_[end]), float(sorted_[end + 1]) if answered < n else -np.inf
            edge = least - min(ROOM, (least - below) / 2)
            short = round(edge, 6)
            return Threshold(short if below < short <= least else edge, answered, k, lower_bound(k, answered))
    return None


def needed(target: float) -> int:
    """How many pictures, all of them right, it takes to prove an accuracy of ``target`` %."""
    return math.ceil(math.log(ALPHA) / math.log(target / 100))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
