"""Batch sizes for which a recorded program exists: any other batch is filled up to the next one and
cut again.
"""

from __future__ import annotations

import numpy as np

from lfdeploy.images import Pixels


def buckets(most: int) -> tuple[int, ...]:
    """1, 2, 4, 8, ... below ``most``, and ``most`` itself."""
    return (*(1 << n for n in range(most.bit_length()) if 1 << n < most), most)


def bucket(size: int, most: int) -> int:
    """The smallest bucket that holds ``size`` pictures. Raises ValueError outside 1..``most``."""
    if not 1 <= size <= most:
        raise ValueError(f"batch of {size}; 1 to {most} are served.")
    return next(b for b in buckets(most) if b >= size)


def fill(buffer: Pixels, images: Pixels) -> None:
    """Put images (B, H, W, 3) into the first rows of a buffer (bucket, H, W, 3); the rest becomes black,
    nothing old stays.
    """
    buffer[: len(images)] = images
    buffer[len(images) :] = 0


def cut(
    answers: np.ndarray[tuple[int, ...], np.dtype[np.float32]], size: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The first ``size`` rows, in memory of their own: the buffer is overwritten by the next call."""
    return answers[:size].copy()
