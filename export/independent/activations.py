"""Does an int8 file round activations as the run's pictures need it? And what does int8, by its nature, do to
this network?

Activations come from the file's own graph without rounding, which answers as the module does, on training
pictures that did not calibrate it, as far as there are enough. Nothing of the exporter is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.independent.expected_weights import Array
from export.independent.float_onnx import Answers, Range
from export.independent.weights import STAGE, Match, channels
from export.numbers.check import Check, at_most

WIDE, WIDE_MEDIAN = 2.5, 1.35  # a step against the one that the pictures need: of one tensor, and of most
# the error of cutting off, against that of rounding; few values may reach far beyond most
CUT, CUT_MEDIAN = (400.0, 3.0)


@dataclass
class Reach:
    """How far one tensor goes on pictures, and what a file's range cuts off: the sum of squares, over
    ``count`` values.
    """

    low: float = np.inf
    high: float = -np.inf
    count: int = 0
    cut: float = 0.0

    def add(self, values: NDArray[np.float32], limits: Range) -> None:
        """Take in one batch."""
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += values.size
        if low < limits.low or high > limits.high:
            outside = values - values.clip(limits.low, limits.high)
            self.cut += float((outside.astype(np.float64) ** 2).sum())

    def needed(self, limits: Range) -> Range:
        """The range that holds the values with zero among its 256 levels, symmetric
        where the file's own is.
        """
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if is_symmetric(limits):
            step = max(-low, high, 1e-12) / 127
            return Range(-128 * step, 127 * step, step)
        low = 0.0 if limits.low == 0 else low
        step = max(high - low, 1e-12) / 255
        low = -round(-low / step) * step
        return Range(low, low + 255 * step, step)


def is_symmetric(limits: Range) -> bool:
    """Whether zero is in the middle of a range, as of a scheme without zero points."""
    return abs(limits.low + limits.high) <= 1.5 * limits.step


def reaches(
    answers: Answers, ranges: Mapping[str, Range], batches: Sequence[NDArray[np.uint8]]
) -> dict[str, Reach]:
    """Every rounded tensor's reach over pictures, a few at a time."""
    known = {tensor: Reach() for tensor in ranges}
    for pictures in batches:
        values = answers(pictures)
        for tensor, reach in known.items():
            reach.add(values[tensor], ranges[tensor])
    return known


def range_checks(ranges: Mapping[str, Range], known: Mapping[str, Reach]) -> Iterator[Check]:
    """Each range neither wider than the pictures need nor so narrow that cutting off costs more
    than rounding.
    """
    wide = {
        tensor: ranges[tensor].step / reach.needed(ranges[tensor]).step for tensor, reach in known.items()
    }
    cut = {tensor: _cutting(ranges[tensor], reach) for tensor, reach in known.items()}
    for ratios, what, one, most in (
        (wide, "step of an activation / what pictures need", WIDE, WIDE_MEDIAN),
        (cut, "error of cutting off / of rounding", CUT, CUT_MEDIAN),
    ):
        worst = max(ratios, key=lambda tensor: ratios[tensor])
        yield at_most(STAGE, f"{what}, worst at {worst}", ratios[worst], one)
        yield at_most(STAGE, f"{what}, median", float(np.median(list(ratios.values()))), most)


def _cutting(limits: Range, reach: Reach) -> float:
    return reach.cut / max(reach.count, 1) / (max(limits.step, reach.needed(limits).step) ** 2 / 12)


def own_ranges(ranges: Mapping[str, Range], known: Mapping[str, Reach]) -> dict[str, Range]:
    """The ranges that these pictures give."""
    return {tensor: reach.needed(ranges[tensor]) for tensor, reach in known.items()}


def own_numbers(matches: Mapping[str, Match]) -> dict[str, Array]:
    """The run's numbers, weights that are int8 in the file rounded to 255 levels of their channel; biases as
    they are.
    """
    numbers = {}
    for name, match in matches.items():
        exact, constant = match.exact.value, match.constant
        if constant.step is None or constant.kind != "int8":
            numbers[name] = exact
            continue
        step = np.maximum(channels(match)[0] / 127, 1e-12)
        numbers[name] = np.round(exact / step) * step
    return numbers
