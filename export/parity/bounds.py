"""How far a healthy export of each precision may be from the run's fp32 module."""

from __future__ import annotations

from dataclasses import dataclass, replace

from export.independent.halves import UNIT
from export.numbers.statistics import Comparison


@dataclass(frozen=True)
class Bounds:
    """What a healthy export of a precision stays within; differences and margins are relative to the
    logits' scale.

    ``spread`` is how much a picture's answer may depend on its batch.
    """

    difference: float
    spread: float
    agreement: float
    kl_mean: float
    kl_max: float
    flip_margin: float
    ci_low: float


BOUNDS = {
    "fp32": Bounds(2e-5, 2e-5, 99.95, 1e-7, 1e-5, 1e-4, -0.05),
    "fp16": Bounds(3e-3, 3e-3, 99.8, 2e-5, 1e-3, 5e-3, -0.1),
    "bf16": Bounds(3e-2, 3e-2, 98.5, 1e-3, 2e-2, 3e-2, -0.3),
    "int8": Bounds(1.5e-1, 1e-2, 95.0, 5e-3, 1.5e-1, 6e-2, -0.5),  # `int8_bounds` are those of a file
}
FURTHEST = {"fp16": 3e-2, "bf16": 1e-1}  # a deep network may be further from fp32 by nature, up to here
TWIN = 1e-3  # from the file's own graph with rounded weights, where a CPU's runtime rounds few activations


def half_bounds(precision: str, by_nature: float) -> Bounds:
    """Those of fp16 or bf16 for a network that the format itself moves so far: twice
    that, or six roundings.
    """
    least = 6 * UNIT[precision]
    return replace(BOUNDS[precision], difference=min(FURTHEST[precision], max(least, 2 * by_nature)))


def twin_bound(precision: str, by_activations: float) -> float:
    """How far a half file on a CPU may be from its own graph with rounded weights in fp32: `TWIN`, and for
    fp16 half as much again as the rounding of every activation does to this network.

    A CPU computes bf16 widened to fp32, where nothing else is rounded.
    """
    return TWIN if precision == "bf16" else max(TWIN, min(FURTHEST[precision], 1.5 * by_activations))


def int8_bounds(predicted: Comparison, furthest: tuple[float, float], images: int) -> Bounds:
    """Those of an int8 file whose own graph, rounded anew with other ranges, is so far from the module.

    ``furthest``: the largest difference and KL that the file's own ranges explain, on the pictures that are
    furthest off; ``images`` are judged. Their mean may hold one that is as far off as one may be.
    """
    flips, few = 100 - predicted.agreement, 100 * 2 / predicted.images
    difference, kl = max(predicted.max_difference, furthest[0]), max(predicted.kl_max, furthest[1])
    return Bounds(
        difference=4 * difference + 1e-3,
        spread=BOUNDS["int8"].spread,
        agreement=max(100 - 3 * flips - few, min(BOUNDS["int8"].agreement, 100 - 1.5 * flips - few)),
        kl_mean=3 * predicted.kl_mean + 8 * predicted.kl_max / images + 1e-7,
        kl_max=8 * kl + 1e-5,
        flip_margin=2.5 * difference + 1e-3,
        ci_low=BOUNDS["int8"].ci_low,
    )


def systematic(predicted: Comparison, images: int) -> tuple[float, float]:
    """How far an int8 file's slope may be from 1, and a class's mean from its place / scale: rounding
    averages out of both.
    """
    room = 2 * predicted.max_difference / images**0.5  # of few pictures it does so less
    return 3 * abs(predicted.slope - 1) + 1e-2 + room, 3 * predicted.bias + 5e-3 + room
