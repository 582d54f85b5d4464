"""Is a picture like those that a network was trained on? A score from its logits, and a threshold from val.

Each class's logits have a mean, and all share one covariance; the score is the squared Mahalanobis distance
from the nearest class, less the one from the mean of all pictures: what is odd about a picture beyond being
far from everything. Source: Ren et al. 2021, A Simple Fix to Mahalanobis Distance for Improving Near-OOD
Detection, here on logits (they on features), because every file of every format gives logits.

Numbers come from validation pictures alone: training fits them when it ends (``familiarity.json`` in the
run), an export copies them into its manifest. NumPy alone, so that serving needs nothing else.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.errors import ParityError

if TYPE_CHECKING:
    from lfdeploy.run import Run

KEY = "familiarity"
FILE = "familiarity.json"
#: The share of validation pictures that count as familiar.
SHARE = 0.95
#: Fewest validation pictures in all and of a class, and most classes: K x K numbers stand in the manifest.
FEWEST, FEWEST_OF_CLASS, MOST_CLASSES = 50, 3, 128
SHRINKAGE = 0.05  # of a covariance, towards a multiple of the identity: few pictures say little of it
FOLDS = 20
Array = NDArray[np.float64]


def fitted(logits: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
    """What a manifest says, from validation logits (N, K) and labels (N,); ``threshold`` is None, with a
    ``reason``, where nothing can be said.

    The threshold is that of scores by numbers from other pictures: each fold's from all others, nearly as
    many as there are in all, for fewer would put every picture further out.
    """
    z, classes = logits.astype(np.float64), logits.shape[1]
    counts = np.bincount(labels, minlength=classes)
    told = {"threshold": None, "split": "val", "images": len(z), "share": SHARE, "reason": ""}
    if len(z) < FEWEST:
        return told | {"reason": f"{len(z)} validation pictures are too few; it takes {FEWEST}"}
    if classes > MOST_CLASSES:
        return told | {"reason": f"{classes} classes are too many; at most {MOST_CLASSES} are kept apart"}
    if counts.min() < FEWEST_OF_CLASS:
        short = f"a class has {counts.min()} validation pictures"
        return told | {"reason": f"{short}; it takes {FEWEST_OF_CLASS} of each"}
    if not np.isfinite(z).all():
        return told | {"reason": "the network gives logits that are not finite"}
    # pictures of a class are dealt out to the folds, so that none loses all of its class
    rank = np.empty(len(z), np.int64)
    for label in range(classes):
        rank[labels == label] = np.arange(counts[label])
    scores = np.empty(len(z))
    for fold in range(FOLDS):
        out = (rank + labels) % FOLDS == fold
        if out.any():
            scores[out] = _scores(z[out], _numbers(z[~out], labels[~out], classes))
    edge = np.sort(scores)[min(len(z) - 1, math.ceil(SHARE * len(z)) - 1)]
    whole = np.concatenate([part.ravel() for part in _numbers(z, labels, classes)])
    return told | {
        "threshold": float(f"{edge:.6g}"),
        "numbers": base64.b64encode(whole.astype("<f4").tobytes()).decode(),
    }


def _numbers(z: Array, labels: NDArray[np.int64], classes: int) -> tuple[Array, Array, Array, Array]:
    """Means of classes (K, K), the inverse of their shared covariance (K, K), the mean of all (K,), and the
    inverse of the covariance of all (K, K).
    """
    middle = z.mean(0)
    known = np.bincount(labels, minlength=classes)
    means = np.stack([z[labels == k].mean(0) if known[k] else middle for k in range(classes)])
    return means, _inverse(z - means[labels]), middle, _inverse(z - middle)


def _inverse(apart: Array) -> Array:
    covariance = apart.T @ apart / len(apart)
    level = float(np.trace(covariance)) / len(covariance) or 1.0
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(len(covariance))
    return np.linalg.inv(shrunk).astype(np.float64)


def _scores(z: Array, numbers: tuple[Array, Array, Array, Array]) -> Array:
    means, within, middle, whole = numbers
    near, far = z[:, None] - means, z - middle
    nearest = (near @ within * near).sum(-1).min(1)
    found: Array = nearest - (far @ whole * far).sum(-1)
    return found


def score(manifest: Mapping[str, Any], logits: NDArray[Any]) -> Array | None:
    """The score of each picture (N,), larger for one that is less like the training pictures; None where
    nothing is known. Raises `ParityError` for a manifest whose numbers are none.
    """
    block = manifest.get(KEY)
    if not isinstance(block, dict) or block.get("threshold") is None:
        return None
    return _scores(logits.astype(np.float64), _stored(str(block.get("numbers")), logits.shape[1]))


@functools.lru_cache(maxsize=64)
def _stored(text: str, classes: int) -> tuple[Array, Array, Array, Array]:
    sizes = [classes * classes, classes * classes, classes, classes * classes]
    try:
        flat = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    except ValueError:
        flat = np.empty(0)
    if len(flat) != sum(sizes) or not np.isfinite(flat).all():
        raise ParityError(f"stage file: manifest.json gives no numbers as {KEY}.numbers. Export it again.")
    means, within, middle, whole = np.split(flat, np.cumsum(sizes)[:-1])
    square = (classes, classes)
    return means.reshape(square), within.reshape(square), middle, whole.reshape(square)


def unfamiliar(manifest: Mapping[str, Any], logits: NDArray[Any]) -> list[bool | None]:
    """Of each picture, whether it is unlike the training pictures; None where nothing is known of that."""
    found = score(manifest, logits) if len(logits) else None
    if found is None:
        return [None] * len(logits)
    return [not value <= manifest[KEY]["threshold"] for value in found.tolist()]


def of_run(run: Run, target: str) -> dict[str, Any]:
    """The part of a target's manifest; empty for a run of an older lfdeploy, or of a target it has not."""
    path = run.path / FILE
    blocks = run.read(FILE) if path.exists() else {}
    return {KEY: blocks[target]} if target in blocks else {}
