"""Measures by class, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from lfdeploy.by_class import OfClass, by_class, mistakes, rows, told


@pytest.mark.parametrize("seed", range(5))
def test_as_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.choice(6, 80, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    predicted = np.where(random.random(80) < 0.6, labels, random.integers(0, 6, 80))
    there = np.unique(labels)
    found = by_class(predicted, labels, 6)
    recall = recall_score(labels, predicted, labels=range(6), average=None, zero_division=np.nan)
    assert [r for r in found["per_class_recall"] if r is not None] == pytest.approx(100 * recall[there])
    assert found["macro_f1"] == pytest.approx(
        100 * f1_score(labels, predicted, labels=there, average="macro")
    )
    if set(predicted) <= set(there):
        assert found["balanced"] == pytest.approx(100 * balanced_accuracy_score(labels, predicted))


def test_a_class_without_pictures_is_left_out() -> None:
    found = by_class(np.array([0, 2, 1]), np.array([0, 0, 1]), 3)
    assert found == {
        "per_class_recall": [50.0, 100.0, None],
        "macro_f1": pytest.approx(250 / 3),
        "balanced": 75.0,
    }
    assert told(found, "peer0", ["a", "b", "c"]) == (
        "peer0: macro-F1 83.3, balanced accuracy 75.0 %; least recognised: a, 50.0 %"
    )


def test_no_pictures() -> None:
    none = np.zeros(0, np.int64)
    assert by_class(none, none, 2) == {"per_class_recall": [None, None], "macro_f1": None, "balanced": None}


def test_what_a_class_is_taken_for() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 3]), np.array([0, 2, 2, 1, 1, 1, 1])
    scores = by_class(predicted, labels, 4) | mistakes(predicted, labels, 4)
    assert scores["per_class_images"] == [4, 2, 0, 1]
    assert scores["per_class_taken_for"] == [(2, 2), None, None, (1, 1)]
    assert rows(scores, ["a", "b", "c", "d"]) == [
        OfClass("d", 0.0, 1, "b", 1),
        OfClass("a", 25.0, 4, "c", 2),
        OfClass("b", 100.0, 2, "", 0),
    ]


def test_an_older_manifest_tells_nothing() -> None:
    assert rows({"top1": 80.0}, ["a", "b"]) == []
    assert rows(None, ["a", "b"]) == []
