"""How good answers are class by class: what top-1 hides where classes are unequally frequent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def by_class(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """``per_class_recall`` in percent by class (None: no picture of it); ``balanced``, their mean, and
    ``macro_f1``, the mean of the classes' F1, in percent, over classes with pictures.

    ``predicted`` and ``labels`` (N,) are class numbers. Both None without a picture.
    """
    confusion = _confusion(predicted, labels, classes)
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


def mistakes(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """``per_class_images``, how many pictures a class has; ``per_class_taken_for``, the number of the other
    class that most of them were taken for and how many were (None: not one).

    ``predicted`` and ``labels`` (N,) are class numbers.
    """
    confusion = _confusion(predicted, labels, classes)
    pictures = confusion.sum(1)
    np.fill_diagonal(confusion, 0)
    taken = [(int(row.argmax()), int(row.max())) if row.any() else None for row in confusion]
    return {"per_class_images": pictures.tolist(), "per_class_taken_for": taken}


def _confusion(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How many pictures of a class (row) were answered with a class (column)."""
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return confusion


@dataclass(frozen=True)
class OfClass:
    """How often pictures of one class were recognised, in % of so many; the class that ``mistaken`` of them
    were taken for, empty where none was.
    """

    name: str
    recall: float
    images: int
    taken_for: str
    mistaken: int


def rows(accuracy: Mapping[str, Any] | None, classes: Sequence[str]) -> list[OfClass]:
    """The classes of which a manifest's accuracy tells something, the least recognised first."""
    if not accuracy or "per_class_taken_for" not in accuracy:
        return []
    told = (accuracy[f"per_class_{key}"] for key in ("recall", "images", "taken_for"))
    found = [
        OfClass(name, recall, images, classes[taken[0]] if taken else "", taken[1] if taken else 0)
        for name, recall, images, taken in zip(classes, *told, strict=True)
        if recall is not None
    ]
    return sorted(found, key=lambda one: one.recall)


def told(scores: dict[str, Any], target: str, classes: list[str]) -> str:
    """Macro-F1, balanced accuracy and the class that is recognised least, in one line."""
    recall = {c: r for c, r in zip(classes, scores["per_class_recall"], strict=True) if r is not None}
    worst = min(recall, key=lambda name: recall[name])
    return (
        f"{target}: macro-F1 {scores['macro_f1']:.1f}, balanced accuracy {scores['balanced']:.1f} %; "
        f"least recognised: {worst}, {recall[worst]:.1f} %"
    )
