"""Ranges of activations against the rule that they are said to come from, by code of another hand."""

from __future__ import annotations

import numpy as np
import pytest

from export.build.ranges import CALIBRATORS, Spread
from export.independent.activations import RULES, Reach, fitted, range_checks
from export.independent.float_onnx import Range

TENSORS = 9


def activations(seed: int, pictures: int) -> np.ndarray:
    """As after a ReLU, pictures of different brightness."""
    draw = np.random.default_rng(seed)
    brightness = draw.lognormal(0, 0.05, (pictures, 1, 1, 1))
    return (draw.standard_normal((pictures, 8, 24, 24)).clip(0) * brightness).astype(np.float32)


def file_range(rule: str, seed: int, factor: float) -> Range:
    """What the exporter's own rule gives for other pictures, by a factor."""
    spread = Spread()
    spread.add(activations(1000 + seed, 200))
    low, high = CALIBRATORS[rule](spread)
    low, high = min(low, 0.0) * factor, max(high, 0.0) * factor
    return Range(low, high, (high - low) / 255)


def verdicts(rule: str, factor: float) -> list[bool]:
    ranges = {f"t{seed}": file_range(rule, seed, factor) for seed in range(TENSORS)}
    known = {tensor: Reach() for tensor in ranges}
    for seed, (tensor, reach) in enumerate(known.items()):
        for part in np.split(activations(seed, 64), 4):
            reach.add(part, ranges[tensor])
    return [check.passed for check in range_checks(ranges, known, rule)]


def test_every_rule_has_its_counterpart() -> None:
    assert set(RULES) == set(CALIBRATORS)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_what_a_rule_gives_passes_and_twice_that_does_not(rule: str) -> None:
    assert all(verdicts(rule, 1.0))
    assert not all(verdicts(rule, 2.0))
    assert not verdicts(rule, 1.6)[-1]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_gives_what_the_exporter_s_gives_for_the_same_values(rule: str) -> None:
    values = activations(5, 64)
    reach, spread = Reach(), Spread()
    limits = Range(0.0, 1.0, 1 / 255)
    for part in np.split(values, 8):
        reach.add(part, limits)
        spread.add(part)
    low, high = CALIBRATORS[rule](spread)
    assert reach.by_rule(rule, limits).step == pytest.approx(fitted(low, high, limits).step, rel=0.05)


@pytest.mark.parametrize(("odd", "passes"), [(1.0, False), (4.0, True)])
def test_one_wide_range_is_taken_where_single_pictures_reach_far(odd: float, passes: bool) -> None:
    """A range of four times what these pictures need: right where one of them reaches four times as far as
    most, wrong where all are alike.
    """
    tensors = [f"t{seed}" for seed in range(TENSORS)]
    known = {tensor: Reach() for tensor in tensors}
    ranges: dict[str, Range] = {}
    for seed, (tensor, reach) in enumerate(known.items()):
        values = activations(seed, 64)
        values[0] *= odd
        high = float(values.max()) * (4 if seed == 0 else 1)
        ranges[tensor] = Range(0.0, high, high / 255)
        reach.add(values, ranges[tensor])
    assert next(range_checks(ranges, known, "minmax")).passed is passes


def test_an_unknown_rule_is_held_to_the_extremes() -> None:
    reach = Reach()
    reach.add(activations(5, 8), Range(0.0, 1.0, 1 / 255))
    assert reach.by_rule("", Range(0.0, 1.0, 1 / 255)) == reach.needed(Range(0.0, 1.0, 1 / 255))
