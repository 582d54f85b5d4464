"""From call times to ratios with confidence: a round is one sample, its calls are reduced first.

Disturbances on a shared CPU only ever add time, so the fastest call of a round is the one they touched least;
over rounds, where speed itself drifts, the median of paired ratios holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bench.speed import median_interval

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the reference, with its 95 % interval."""

    ratio: float
    low: float
    high: float


def per_round(times: Times) -> Times:
    """(rounds, calls) to (rounds,): the fastest call of every round."""
    return np.asarray(times.min(1))


def speed_ratio(reference: Times, times: Times) -> Ratio:
    """Median over rounds of reference / times, both (rounds, calls), with its
    bootstrap interval over rounds.
    """
    ratios = per_round(reference) / per_round(times)
    low, high = median_interval(ratios)
    return Ratio(float(np.median(ratios)), low, high)
