"""Bounds of int8 follow from what rounding alone does to the network at hand."""

from __future__ import annotations

import numpy as np

from export.numbers.statistics import compare
from export.parity.bounds import int8_bounds


def predicted(flipped: int) -> object:
    """A network of which rounding flips so many of 100 labels."""
    reference = np.tile(np.array([[1.0, 0.99, 0.0]], np.float32), (100, 1))
    subject = reference.copy()
    subject[:flipped] = [0.99, 1.0, 0.0]
    return compare(reference, subject, np.zeros(100, np.int64))


def test_a_network_that_rounding_flips_often_may_flip_more() -> None:
    """One near chance has labels that hang by a thread; a constant 95 % would refuse its healthy file."""
    sure, unsure = (int8_bounds(predicted(count), (0.1, 0.1), 10_000) for count in (0, 8))  # type: ignore[arg-type]
    assert sure.agreement == 98
    assert unsure.agreement == 86


def test_a_few_flips_leave_the_usual_bound() -> None:
    assert int8_bounds(predicted(1), (0.1, 0.1), 10_000).agreement == 95  # type: ignore[arg-type]
