"""How fast is int8 here? Its file against its fp32 sibling, in CPU time, on the processor that exports it.

CPU time of one thread, not the clock: what else the machine does then hardly matters.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.backends import BACKENDS, Session, Source
from lfdeploy.devices import instruction_set
from lfdeploy.images import Pixels

FASTER = 1.1  # times as fast as fp32 at one of the batch sizes, for --require-faster
ROUNDS = 11
FEWEST_ROUNDS, SECONDS = 5, 2.0  # a batch size has taken long enough, from so many rounds on
Speeds = dict[str, dict[str, float]]


def speedup(
    backend: str,
    float_file: Path,
    file: Path,
    manifest: Mapping[str, Any],
    batches: tuple[int, ...],
) -> Speeds:
    """How many times faster ``file`` is than ``float_file``, by batch size: one backend, one CPU thread.

    ``ratio`` is that of the median CPU times of interleaved calls; ``low`` and ``high`` bound the median of
    the paired ratios (95 %). ``manifest`` is that of ``file``.
    """
    facts = [dict(manifest) | {"precision": "fp32"}, manifest]
    sources = [Source(place, fact, threads=1) for place, fact in zip((float_file, file), facts, strict=True)]
    sessions = [BACKENDS[backend].open(source, "cpu") for source in sources]
    speeds, size = {}, int(manifest["input"]["height"])
    for batch in batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        pairs = _rounds(sessions, images)
        low, high = median_interval(pairs[:, 0] / pairs[:, 1])
        ratio = float(np.median(pairs[:, 0]) / np.median(pairs[:, 1]))
        speeds[str(batch)] = {"ratio": ratio, "low": low, "high": high}
    return speeds


def _rounds(sessions: list[Session], images: Pixels) -> NDArray[np.float64]:
    """CPU seconds (rounds, sessions) of interleaved calls; the first round warms up and is left out."""
    times: list[list[float]] = []
    for _ in range(ROUNDS + 1):
        times.append([_seconds(session, images) for session in sessions])
        if len(times) > FEWEST_ROUNDS and sum(map(sum, times)) > SECONDS:
            break
    return np.array(times[1:])


def _seconds(session: Session, images: Pixels) -> float:
    start = time.process_time()
    session(images)
    return max(time.process_time() - start, 1e-9)


def median_interval(values: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(values, (draws, len(values))), axis=1)
    return float(np.percentile(medians, 2.5)), float(np.percentile(medians, 97.5))


def faster(speeds: Speeds) -> bool:
    """Whether int8 is `FASTER` than fp32 at one of the batch sizes."""
    return max(speed["ratio"] for speed in speeds.values()) >= FASTER


def in_words(speeds: Speeds) -> str:
    """The speed against fp32 and the CPU that it holds for, as part of a sentence."""
    first, *more = [(f"{speed['ratio']:.2f}", f"at batch {batch}") for batch, speed in speeds.items()]
    ratios = " and ".join([f"{first[0]} times as fast as fp32 {first[1]}", *map(" ".join, more)])
    return f"int8 is {ratios}, on this CPU ({instruction_set()})"
