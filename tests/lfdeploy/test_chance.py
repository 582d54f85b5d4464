"""At chance, or above it: by an exact test."""

from __future__ import annotations

import numpy as np
import pytest

from lfdeploy.chance import against_chance, binomial_tail, warning


def test_the_tail_by_hand() -> None:
    assert binomial_tail(0, 5, 0.3) == 1.0
    assert binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert binomial_tail(10, 10, 0.5) == pytest.approx(2.0**-10)
    assert binomial_tail(3000, 10_000, 0.1) < 1e-300 or binomial_tail(3000, 10_000, 0.1) >= 0


@pytest.mark.parametrize(("right", "above"), [(60, False), (68, False), (69, True), (100, True)])
def test_the_most_frequent_class_is_the_bar(right: int, above: bool) -> None:
    labels = np.repeat([0, 1], [60, 40])
    assert against_chance(right, labels)["majority"] == 60
    assert against_chance(right, labels)["above"] is above


def test_one_class_alone_tells_nothing() -> None:
    assert against_chance(3, np.zeros(5, np.int64))["above"]


def test_the_sentence_names_who_is_below() -> None:
    labels = np.repeat([0, 1], [60, 40])
    chances = [against_chance(count, labels) for count in (55, 90, 50)]
    assert warning(["peer0", "peer1", "fused"], chances).startswith(
        "Warning: peer0, fused are not shown to be better than"
    )
    assert warning(["peer1"], chances[1:2]) == ""
