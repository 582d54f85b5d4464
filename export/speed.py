"""Is int8 worth it here? Its file against its fp32 sibling, interleaved, on the CPU that will serve it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.backends import BACKENDS, Session, Source
from lfdeploy.images import Pixels

WORTH = 1.1
ROUNDS = 11


def speedup(
    backend: str, float_file: Path, file: Path, manifest: Mapping[str, Any], batches: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """How many times faster ``file`` is than ``float_file`` by one backend on the CPU, by batch size: the ratio of
    medians of interleaved calls, with the 95 % interval of the paired ratios' median. ``manifest`` is that of ``file``."""
    told = [dict(manifest) | {"precision": "fp32"}, manifest]
    sessions = [BACKENDS[backend].open(Source(f, m), "cpu") for f, m in zip((float_file, file), told, strict=True)]
    found, size = {}, int(manifest["input"]["height"])
    for batch in batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        times: list[list[float]] = []
        for _ in range(ROUNDS + 1):  # the first one warms up
            times.append([_seconds(session, images) for session in sessions])
        pairs = np.array(times[1:])
        low, high = median_interval(pairs[:, 0] / pairs[:, 1])
        found[str(batch)] = {"ratio": float(np.median(pairs[:, 0]) / np.median(pairs[:, 1])), "low": low, "high": high}
    return found


def _seconds(session: Session, images: Pixels) -> float:
    start = time.perf_counter()
    session(images)
    return time.perf_counter() - start


def median_interval(values: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(values, (draws, len(values))), axis=1)
    return float(np.percentile(medians, 2.5)), float(np.percentile(medians, 97.5))


def not_worth(found: dict[str, dict[str, float]]) -> str:
    """Why int8 is not worth it, or an empty string: it must be 1.1 times as fast at one of the batch sizes."""
    if max(one["ratio"] for one in found.values()) >= WORTH:
        return ""
    told = ", ".join(f"{one['ratio']:.2f} times at batch {batch}" for batch, one in found.items())
    return f"int8 is not worth it on this CPU: as fast as fp32 {told}, and {WORTH} is the least"
