"""Statistics against hand-computed numbers and scipy's own tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from export.numbers.statistics import compare, log_softmax, mcnemar, paired_interval, permutation


def test_mcnemar_is_the_binomial_test() -> None:
    for gained, lost in ((0, 0), (1, 0), (3, 9), (40, 61), (500, 420)):
        expected = stats.binomtest(min(gained, lost), gained + lost).pvalue if gained + lost else 1.0
        assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_paired_interval_of_the_notes() -> None:
    low, high = paired_interval(72, 70, 10_000)
    assert (low + high) / 2 == pytest.approx(0.02)
    assert (high - low) / 2 == pytest.approx(0.2336, abs=1e-3)


def test_compare_counts_flips_and_their_margin() -> None:
    reference = np.array([[4.0, 1.0, 0.0], [1.0, 1.1, 0.0], [0.0, 0.0, 8.0], [2.0, 0.0, 0.0]])
    subject = reference.copy()
    subject[1, 0] = 1.2  # a flip of margin 0.1 on a scale of 8
    found = compare(reference, subject, np.array([0, 1, 2, 1]))
    assert (found.flips, found.agreement, found.only_reference_right, found.only_subject_right) == (
        1,
        75.0,
        1,
        0,
    )
    assert found.flip_margin == pytest.approx(0.1 / 8)
    assert found.max_difference == pytest.approx(0.2 / 8)
    assert (found.top1_reference, found.top1) == (75.0, 50.0)


def test_kl_is_scipys() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(5, 7)), random.normal(size=(5, 7))
    p, q = np.exp(log_softmax(a)), np.exp(log_softmax(b))
    expected = [stats.entropy(x, y) for x, y in zip(p, q, strict=True)]
    found = compare(a, b, np.zeros(5, np.int64))
    assert found.kl_max == pytest.approx(max(expected))
    assert found.kl_mean == pytest.approx(np.mean(expected))


def test_permutation_is_found_and_noise_is_not_one() -> None:
    reference = np.random.default_rng(0).normal(size=(50, 4))
    assert permutation(reference, reference[:, [0, 2, 1, 3]], 1e-5) == [(2, 1), (1, 2)]
    assert permutation(reference, reference, 1e-5) == []
    assert permutation(reference, reference[:, [0, 2, 1, 3]] + 0.1, 1e-5) == []
