"""Calibration: how far every activation of a graph reaches, streamed over pictures, and the ranges to
choose from.

Nothing is kept but extremes and a histogram per tensor, so memory does not grow with the number of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.backends.onnxruntime import session_options
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels

BINS = 4096
SAMPLED = 1 << 16  # values of a tensor that enter the histogram per batch; extremes see all of them
Range = tuple[float, float]
Ranges = dict[str, Range]


@dataclass
class Spread:
    """Of one tensor: its extremes, the sums of each picture's extremes, and a
    histogram over [-reach, reach).
    """

    low: float = np.inf
    high: float = -np.inf
    lows: float = 0.0
    highs: float = 0.0
    pictures: int = 0
    reach: float = 2.0**-20
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in one batch (B, ...); raises `LfdeployError` where a number is not finite."""
        if not np.isfinite(values).all():
            raise LfdeployError("an activation is not finite on training pictures: int8 has no range for it")
        rows = values.reshape(len(values), -1)
        lows, highs = rows.min(1), rows.max(1)
        self.low, self.high = min(self.low, float(lows.min())), max(self.high, float(highs.max()))
        self.lows += float(lows.sum())
        self.highs += float(highs.sum())
        self.pictures += len(rows)
        while max(-self.low, self.high) >= self.reach:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(merged, BINS // 4)
            self.reach *= 2
        flat = values.reshape(-1)
        some = flat[:: max(1, flat.size // SAMPLED) | 1]  # an odd stride does not stay in one column
        place = ((some + self.reach) * (BINS / (2 * self.reach))).astype(np.int64).clip(0, BINS - 1)
        self.counts += np.bincount(place, minlength=BINS)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of every bin."""
        return np.asarray((np.arange(BINS) + 0.5) * (2 * self.reach / BINS) - self.reach, np.float64)


def minmax(spread: Spread) -> Range:
    """The extremes over all pictures: nothing is clipped."""
    return spread.low, spread.high


def mean_minmax(spread: Spread) -> Range:
    """The mean over pictures of each picture's extremes: what only few pictures reach is clipped."""
    return spread.lows / spread.pictures, spread.highs / spread.pictures


def percentile(spread: Spread) -> Range:
    """What 99.99 % of the values lie in."""
    share = spread.counts.cumsum() / spread.counts.sum()
    first, last = (min(int(np.searchsorted(share, edge)), BINS - 1) for edge in (5e-5, 1 - 5e-5))
    return max(float(spread.centres[first]), spread.low), min(float(spread.centres[last]), spread.high)


def least_squares(spread: Spread) -> Range:
    """The extremes, shrunk together as far as rounding gains more than clipping costs, by the histogram."""
    values, counts = spread.centres, spread.counts / spread.counts.sum()
    best: tuple[float, Range] = (np.inf, minmax(spread))
    for shrink in np.linspace(0.2, 1, 81):
        low, high = min(spread.low, 0.0) * shrink, max(spread.high, 0.0) * shrink
        step = (high - low) / 255
        clipped = (values - values.clip(low, high)) ** 2
        error = float((counts * np.where((values < low) | (values > high), clipped, step**2 / 12)).sum())
        best = min(best, (error, (low, high)))
    return best[1]


CALIBRATORS: dict[str, Callable[[Spread], Range]] = {
    "minmax": minmax,
    "mean-minmax": mean_minmax,
    "percentile": percentile,
    "least-squares": least_squares,
}


def spreads(proto: Any, names: list[str], batches: Iterator[Pixels]) -> dict[str, Spread]:
    """Run an ONNX model over uint8 batches with the named tensors as outputs, and take them in one batch at
    a time.
    """
    import onnx
    import onnxruntime as ort

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = session_options()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = (
        False  # every tensor is an output: an arena only holds more
    )
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = {name: Spread() for name in names}
    for images in batches:
        for name, values in zip(
            names, session.run(names, {"images": np.ascontiguousarray(images)}), strict=True
        ):
            found[name].add(values)
    return found


def ranges(found: dict[str, Spread], calibrator: str) -> Ranges:
    """One calibrator's range for every tensor; zero is always in it, and no range is empty."""
    made = {}
    for name, spread in found.items():
        low, high = CALIBRATORS[calibrator](spread)
        low, high = min(low, 0.0), max(high, 0.0)
        made[name] = (low, high if high - low > 1e-12 else low + 1e-12)
    return made
