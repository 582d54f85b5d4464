"""Does an int8 file round activations as the run's pictures need it? And what does int8, by its nature, do to
this network?

Activations come from the file's own graph without rounding, which answers as the module does, on training
pictures that did not calibrate it, as far as there are enough. Nothing of the exporter is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.independent.expected_weights import Array
from export.independent.float_onnx import Answers, Range
from export.independent.weights import STAGE, Match, channels
from export.numbers.check import Check, at_most

KEPT = 1 << 14  # values of a tensor, of each batch
WIDE, WIDE_MEDIAN = 2.5, 1.35  # a step against the one that the pictures need: of one tensor, and of most
# where one picture of these reaches far beyond most, one that calibrated may have reached beyond it as well
SPREAD = 1.5
RULE_MEDIAN = 1.35  # a step against the one that the rule gives which the file says it was calibrated by
# the error of cutting off, against that of rounding; few values may reach far beyond most
CUT, CUT_MEDIAN = (400.0, 3.0)


@dataclass
class Reach:
    """How far one tensor goes on pictures, and what a file's range cuts off: the sum of squares, over
    ``count`` values; ``lows`` and ``highs`` are the extremes of each picture, ``some`` a part of all values.
    """

    low: float = np.inf
    high: float = -np.inf
    count: int = 0
    cut: float = 0.0
    lows: list[NDArray[np.float32]] = field(default_factory=list)
    highs: list[NDArray[np.float32]] = field(default_factory=list)
    some: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, values: NDArray[np.float32], limits: Range) -> None:
        """Take in one batch."""
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += values.size
        rows = values.reshape(len(values), -1)
        self.lows.append(rows.min(1))
        self.highs.append(rows.max(1))
        flat = values.reshape(-1)
        self.some.append(flat[:: max(1, flat.size // KEPT) | 1].copy())  # odd: not always the same column
        if low < limits.low or high > limits.high:
            outside = values - values.clip(limits.low, limits.high)
            self.cut += float((outside.astype(np.float64) ** 2).sum())

    def needed(self, limits: Range) -> Range:
        """The range that holds all values."""
        return fitted(self.low, self.high, limits)

    @property
    def spread(self) -> float:
        """How far the picture that reaches farthest does, against most pictures."""
        reached = np.maximum(np.concatenate(self.highs), -np.concatenate(self.lows))
        return float(reached.max() / max(float(np.median(reached)), 1e-12))

    def by_rule(self, rule: str, limits: Range) -> Range:
        """The range that a rule of calibration gives; an unknown one is taken for the extremes."""
        low, high = RULES.get(rule, extremes)(self)
        return fitted(low, high, limits)


def fitted(low: float, high: float, limits: Range) -> Range:
    """The range from ``low`` to ``high`` with zero among its 256 levels, symmetric where the file's is."""
    low, high = min(low, 0.0), max(high, 0.0)
    if is_symmetric(limits):
        step = max(-low, high, 1e-12) / 127
        return Range(-128 * step, 127 * step, step)
    low = 0.0 if limits.low == 0 else low
    step = max(high - low, 1e-12) / 255
    low = -round(-low / step) * step
    return Range(low, low + 255 * step, step)


def extremes(reach: Reach) -> tuple[float, float]:
    """minmax: all values."""
    return reach.low, reach.high


def mean_extremes(reach: Reach) -> tuple[float, float]:
    """mean-minmax: the mean over pictures of each picture's extremes."""
    return float(np.concatenate(reach.lows).mean()), float(np.concatenate(reach.highs).mean())


def most(reach: Reach) -> tuple[float, float]:
    """percentile: all but one value of 20,000 on each side."""
    low, high = np.quantile(np.concatenate(reach.some), [5e-5, 1 - 5e-5])
    return float(low), float(high)


def least_error(reach: Reach) -> tuple[float, float]:
    """least-squares: the extremes, drawn in as far as rounding gains more than cutting off costs."""
    values = np.sort(np.concatenate(reach.some).astype(np.float64))
    low, high = min(reach.low, 0.0), max(reach.high, 0.0)
    errors = []
    for part in SHRUNK:
        first, last = np.searchsorted(values, [low * part, high * part])
        cut = ((values[:first] - low * part) ** 2).sum() + ((values[last:] - high * part) ** 2).sum()
        errors.append(cut + (last - first) * ((high - low) * part / 255) ** 2 / 12)
    best = SHRUNK[int(np.argmin(errors))]
    return low * best, high * best


SHRUNK = np.linspace(0.2, 1, 41)
#: by the name that a manifest gives a rule of calibration
RULES = {
    "minmax": extremes,
    "mean-minmax": mean_extremes,
    "percentile": most,
    "least-squares": least_error,
}


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


def range_checks(ranges: Mapping[str, Range], known: Mapping[str, Reach], rule: str) -> Iterator[Check]:
    """Each range neither wider than the pictures need nor so narrow that cutting off costs more than
    rounding; and most as the ``rule`` gives them that they are said to come from.
    """
    wide = {
        tensor: ranges[tensor].step / reach.needed(ranges[tensor]).step for tensor, reach in known.items()
    }
    cut = {tensor: _cutting(ranges[tensor], reach) for tensor, reach in known.items()}
    allowed = {tensor: max(WIDE, SPREAD * reach.spread) for tensor, reach in known.items()}
    for ratios, what, bounds, most in (
        (wide, "step of an activation / what pictures need", allowed, WIDE_MEDIAN),
        (cut, "error of cutting off / of rounding", dict.fromkeys(cut, CUT), CUT_MEDIAN),
    ):
        worst = max(ratios, key=lambda tensor: ratios[tensor] / bounds[tensor])
        yield at_most(STAGE, f"{what}, worst at {worst}", ratios[worst], bounds[worst])
        yield at_most(STAGE, f"{what}, median", float(np.median(list(ratios.values()))), most)
    by_rule = [
        ranges[tensor].step / reach.by_rule(rule, ranges[tensor]).step for tensor, reach in known.items()
    ]
    ratio = float(np.median(by_rule))
    yield at_most(STAGE, f"step of an activation / what {rule} gives, median", ratio, RULE_MEDIAN)


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
