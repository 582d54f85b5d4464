"""When the numbers of two model files are alike: equal, but for what another processor's rounding does.

Each format compares its own graphs, in its own file here; a difference is the first thing that differs, in
words, or `SAME`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SAME = "the same"
# How far a number may be from the one that belongs, as a part of it: a rounding or two; for int8 that of a
# range.
ROOM = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 1e-2, "int8": 1e-3}
OF_LARGEST = 1e-6  # and as a part of its tensor's largest
WEIGHTS = 1e-3  # of a tensor's int8 weights, the part that may be rounded to the other side


def tensor_difference(found: dict[str, Any], wanted: dict[str, Any], precision: str) -> str:
    """The first named tensor that differs; empty where none does.

    One zero point of all may be rounded to the other side.
    """
    if found.keys() != wanted.keys():
        return f"tensor {min(found.keys() ^ wanted.keys())}"
    moved = 0
    for name, belongs in wanted.items():
        if found[name].shape != belongs.shape or found[name].dtype != belongs.dtype:
            return f"shape or type of {name}"
        if not close(found[name], belongs, precision):
            return f"values of {name}"
        moved += (
            belongs.size == 1
            and belongs.dtype in (np.int8, np.uint8)
            and bool((found[name] != belongs).any())
        )
        if moved > 1:
            return f"values of {name}"
    return ""


def close(x: Any, y: Any, precision: str) -> bool:
    """Whether a tensor (numpy) is the one that belongs, but for rounding; axes, shapes and flags exactly."""
    if y.dtype in (np.int64, np.bool_):
        return np.array_equal(x, y)
    value, belongs = x.astype(np.float64), y.astype(np.float64)
    apart = np.abs(value - belongs)
    if y.dtype in (np.int8, np.uint8):
        return bool((apart <= 1).all() and (apart > 0).sum() <= max(1, WEIGHTS * y.size))
    room = ROOM[precision] * np.abs(belongs) + OF_LARGEST * np.abs(belongs).max(initial=0.0)
    return bool((apart <= room + (1 if np.issubdtype(y.dtype, np.integer) else 0)).all())
