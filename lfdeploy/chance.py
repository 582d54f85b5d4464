"""Is a classifier better than one that always answers the most frequent class? A one-sided exact test at
95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
SENTENCE = "not shown to be better than always answering the most frequent class"


def against_chance(right: int, labels: NDArray[np.int64]) -> dict[str, Any]:
    """What is known of ``right`` answers on pictures with these labels (N,).

    ``majority`` is the share of the most frequent class in %; ``p`` how likely as many right answers are for
    who always answers that class with such a chance; ``above`` whether that is below 5 %. Pictures of one
    class alone tell nothing: ``above`` is true then.
    """
    count = len(labels)
    share = float(np.bincount(labels).max()) / count
    p = binomial_tail(right, count, share)
    return {"majority": 100 * share, "p": p, "above": bool(p < ALPHA or share == 1)}


def warning(names: Sequence[str], chances: Sequence[dict[str, Any]]) -> str:
    """A sentence that names what is not better than that; empty where all is."""
    below = [name for name, chance in zip(names, chances, strict=True) if not chance["above"]]
    if not below:
        return ""
    what = f"{', '.join(below)} {'is' if len(below) == 1 else 'are'}"
    return f"Warning: {what} {SENTENCE} ({chances[0]['majority']:.2f} %)."


def binomial_tail(least: int, count: int, share: float) -> float:
    """P(X >= least) for X of the binomial distribution with ``count`` draws of chance ``share``."""
    if least <= 0 or share >= 1:
        return 1.0
    logs = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(share)
        + (count - k) * math.log1p(-share)
        for k in range(least, count + 1)
    ]
    return min(1.0, math.fsum(math.exp(value) for value in logs))
