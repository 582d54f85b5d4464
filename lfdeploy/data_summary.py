"""Numbers about data, told before training: classes, counts, equal pictures, classes that a split lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lfdeploy.folder_entries import shown
from lfdeploy.held_out_splits import with_two_labels
from lfdeploy.labels import counted, some
from lfdeploy.sources import Source

if TYPE_CHECKING:
    from lfdeploy.data import Fault
    from lfdeploy.split_arrays import Split

SEEN = 256  # pictures of a split that are looked at for pixels that were divided by 255
LISTED = 20  # classes that are told by name with their number of pictures


def outline(data: str, source: Source) -> str:
    """How a source is understood: its splits with their folders, its classes, how many pictures."""
    parts = []
    for split, (_, labels) in source.splits.items():
        place = f"{split} " if len(source.splits) > 1 else ""
        if split in source.places:
            place = f"{source.places[split]}/ "
        parts.append(f"{place}{counted(len(labels), 'picture')}")
    first = "train" if "train" in source.splits else next(iter(source.splits))
    counts = np.bincount(source.splits[first][1], minlength=len(source.classes))
    rows = zip(source.classes[:LISTED], counts, strict=False)
    classes = ", ".join(f"{label} ({count:,})" for label, count in rows)
    more = len(source.classes) - LISTED
    if more > 0:
        classes += f" and {more:,} more (from {counts.min():,} to {counts.max():,} pictures each)"
    return f"Reading {data}: {', '.join(parts)}; {counted(len(source.classes), 'class')}: {classes}"


def unread(faults: Sequence[Fault]) -> list[str]:
    """How many files could not be read, by kind, each with an example."""
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kinds.setdefault(fault.code, []).append(fault.message)
    lines = []
    for code, messages in kinds.items():
        files = counted(len(messages), "file")
        lines.append(f"left out as {code.replace('_', ' ')}: {files} ({messages[0].rstrip('.')})")
    return lines


def odd(notes: Sequence[tuple[Path, str]], root: Path | None) -> list[str]:
    """What is odd about pictures that were decoded, by kind: how many, and the first by its path."""
    kinds: dict[str, list[tuple[Path, str]]] = {}
    for path, note in sorted(notes):
        kinds.setdefault(re.sub(r"[\d,]+", "0", note), []).append((path, note))
    lines = []
    for found in kinds.values():
        path, note = found[0]
        lines.append(f"{counted(len(found), 'picture')}: {note} ({shown(path, root or Path())})")
    return lines


def untested(source: Source, found: Mapping[str, Split], faults: Sequence[Fault]) -> str:
    """Why there is no picture to test with, and what to do."""
    why = "".join(f" {line[:1].upper()}{line[1:]}." for line in unread(faults)[:2])
    if "test" in source.splits:
        if not len(source.splits["test"][1]):
            return "the test split has no pictures; without one, a share of train is held out."
        return f"no picture of the test split can be read.{why}"
    train = found["train"]
    _, group = np.unique(train.digests, return_inverse=True)
    if with_two_labels(group, train.labels).all():
        told = remarks_on({"train": train}, source.classes)[0]
        return f"no picture can be held out to test: {told}. Take each out of one of them.{why}"
    if all(len(np.unique(group[train.labels == label])) == 1 for label in np.unique(train.labels)):
        return f"no picture can be held out to test: all pictures of a class have the same pixels.{why}"
    return f"the test split is empty; add pictures or raise --test-fraction.{why}"


def remarks_on(parts: Mapping[str, Split], classes: tuple[str, ...]) -> list[str]:
    """Equal pictures across every pair of splits and under two labels, and classes that val or test lacks."""
    remarks = []
    for name, split in parts.items():
        if len(split) and int(split.images[:SEEN].max()) <= 1:
            dark = f"{name} is nearly black: no pixel is above 1, of 255"
            remarks.append(f"{dark}. Multiply by 255, unless its pixels are 0 and 1 on purpose")
    effects = {
        "test": "test accuracy flatters by up to that",
        "val": "the choice of the best epoch leans on them",
    }
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        if one not in parts or other not in parts:
            continue
        shared = np.isin(parts[other].digests, parts[one].digests)
        if shared.any():
            count = int(shared.sum())
            verb = "is" if count == 1 else "are"
            pictures = f"{counted(count, 'picture')} {verb} in both {one} and {other}"
            remarks.append(f"{pictures} (same pixels; {other} has {len(parts[other]):,}): {effects[other]}")
    for name, split in parts.items():
        _, group = np.unique(split.digests, return_inverse=True)
        torn = np.flatnonzero(with_two_labels(group, split.labels))
        if len(torn):
            first = [i for i in torn if group[i] == group[torn[0]]]
            two = first[0], first[-1]
            example = " and ".join(f"{classes[split.labels[i]]}: {split.paths[i]}" for i in two)
            pictures = f"{counted(len(torn), 'picture')} of {name} have the same pixels"
            remarks.append(f"{pictures} as one of another class ({example})")
    across = _across_with_two_labels(parts) if parts.keys() >= {"train", "val", "test"} else 0
    if across:
        have = "has" if across == 1 else "have"
        pictures = f"{counted(across, 'picture')} of val or test {have} the same pixels as one of train"
        remarks.append(f"{pictures} of another class")
    for name in ("val", "test"):
        if name in parts and len(parts[name]):
            lacking = [label for number, label in enumerate(classes) if number not in parts[name].labels]
            if lacking:
                count = len(lacking)
                remarks.append(f"{name} has no picture of {counted(count, 'class')}: {some(lacking, 8)}")
    return remarks


def _across_with_two_labels(parts: Mapping[str, Split]) -> int:
    """Pictures of val or test that are in train under another class only."""
    known: dict[bytes, set[int]] = {}
    for digest, label in zip(parts["train"].digests.tolist(), parts["train"].labels.tolist(), strict=True):
        known.setdefault(digest, set()).add(label)
    count = 0
    for name in ("val", "test"):
        for digest, label in zip(parts[name].digests.tolist(), parts[name].labels.tolist(), strict=True):
            count += digest in known and label not in known[digest]
    return count
