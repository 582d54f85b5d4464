"""How good answers are class by class: what top-1 hides where classes are unequally frequent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def by_class(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """``per_class_recall`` in percent by class (None: no picture of it); ``balanced``, their mean, and
    ``macro_f1``, the mean of the classes' F1, in percent, over classes with pictures.

    ``predicted`` and ``labels`` (N,) are class numbers. Both None without a picture.
    """
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    right, pictures, answers = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    there = pictures > 0
    if not there.any():
        return {"per_class_recall": [None] * classes, "macro_f1": None, "balanced": None}
    recall = 100 * right[there] / pictures[there]
    f1 = 200 * right[there] / (pictures + answers)[there]
    found = iter(recall.tolist())
    return {
        "per_class_recall": [next(found) if one else None for one in there],
        "macro_f1": float(f1.mean()),
        "balanced": float(recall.mean()),
    }


def told(scores: dict[str, Any], target: str, classes: list[str]) -> str:
    """Macro-F1, balanced accuracy and the class that is recognised least, in one line."""
    recall = {c: r for c, r in zip(classes, scores["per_class_recall"], strict=True) if r is not None}
    worst = min(recall, key=lambda name: recall[name])
    return (
        f"{target}: macro-F1 {scores['macro_f1']:.1f}, balanced accuracy {scores['balanced']:.1f} %; "
        f"least recognised: {worst}, {recall[worst]:.1f} %"
    )
