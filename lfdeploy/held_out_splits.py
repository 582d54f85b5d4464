"""Which pictures are held out of train for test and val, where a source has no splits of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lfdeploy.sources import Labels

if TYPE_CHECKING:
    from lfdeploy.config import DataConfig
    from lfdeploy.split_arrays import Digests, Split


def held_out(
    found: Mapping[str, Split],
    config: DataConfig,
    together: bool,
) -> tuple[dict[str, Split], list[str]]:
    """Train, val and test in the order of their content, held out of train where the source has none."""
    remarks: list[str] = []
    left = found["train"].by_content()
    held: dict[str, NDArray[np.int64]] = {}
    for name, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if name in found:
            if name == "val" and not len(found[name]):
                remarks.append("val has no pictures to choose an epoch by: the last one is kept")
            continue
        train = found["train"]
        mask = drawn_out(train.digests[left], train.labels[left], fraction, config.seed, together)
        held[name], left = left[mask], left[~mask]
        if name == "test":
            remarks.append(f"no test split: {len(held[name])} pictures held out by seed {config.seed}")
        elif fraction and not len(held[name]):
            few = f"--val-fraction {fraction:g} of each class is less than one picture"
            remarks.append(f"{few}: there are none to choose an epoch by, the last one is kept")
    parts = {name: found[name].take(found[name].by_content()) for name in ("val", "test") if name in found}
    parts |= {name: found["train"].take(index) for name, index in held.items()}
    return {"train": found["train"].take(left)} | parts, remarks


def drawn_out(
    digests: Digests,
    labels: Labels,
    fraction: float,
    seed: int,
    together: bool = True,
) -> NDArray[np.bool_]:
    """Marks (N,) of a stratified share, drawn by the seed; every class keeps at least one picture.

    ``together``: pictures that are equal are held out all or none, and none that has two labels. Without
    equal pictures that changes nothing.
    """
    random = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    _, group = np.unique(digests, return_inverse=True)
    torn = with_two_labels(group, labels)
    for label in np.unique(labels):
        index = random.permutation(np.flatnonzero(labels == label))
        room = min(round(len(index) * fraction), len(index) - 1)
        if not together:
            held[index[:room]] = True
            continue
        copies: dict[int, list[int]] = {}
        for i in index.tolist():
            copies.setdefault(int(group[i]), []).append(i)
        for equal in copies.values():
            if len(equal) <= room and not torn[equal[0]]:
                held[equal] = True
                room -= len(equal)
    return held


def with_two_labels(group: NDArray[np.int64], labels: Labels) -> NDArray[np.bool_]:
    """Marks (N,) of pictures that are equal to one with another label."""
    if not len(labels):
        return np.zeros(0, dtype=bool)
    count = int(group.max()) + 1
    lowest, highest = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(lowest, group, labels)
    np.maximum.at(highest, group, labels)
    marks: NDArray[np.bool_] = (lowest < highest)[group]
    return marks
