"""How far a healthy export of each precision may be from the run's fp32 module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """What a healthy export of a precision stays within; differences and margins are relative to the logits' scale.

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
    "int8": Bounds(1.5e-1, 1e-2, 95.0, 5e-3, 1.5e-1, 6e-2, -0.5),
}
FURTHEST = {"fp16": 2e-2, "bf16": 1e-1}  # a deep network may be further from fp32 by nature, as far as true arithmetic shows, up to here
SYSTEMATIC = 3e-2  # int8's rounding averages out of slope and bias, in most networks
# Where stage origin makes the int8 file again, no fault can hide in differences: what they do to the answers (KL, flips,
# accuracy) decides, and these only refuse a file whose logits have lost their meaning.
PROVEN_DIFFERENCE, PROVEN_SYSTEMATIC = 1.0, 0.3
TWIN = 1e-3  # on a CPU, from the module with rounded weights: the runtime rounds once or twice more
