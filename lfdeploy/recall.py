"""The pictures of a run found again: each keeps its split, and what came, went or changed is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfdeploy import data
from lfdeploy.data import Report, part_of, paths_of, silent
from lfdeploy.errors import PictureError
from lfdeploy.images import Pixels, fit_all, prepare
from lfdeploy.labels import counted, some
from lfdeploy.pixel_cache import PixelCache
from lfdeploy.recorded_splits import SPLITS, Record
from lfdeploy.sources import Source
from lfdeploy.split_arrays import (
    Digests,
    Files,
    Split,
    bytes_digest,
    digest_of,
    file_digest,
    pixel_digest,
    workers,
)

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """The pictures of a source, one split after the other: where each is, and the digest of its bytes."""

    source: Source
    places: tuple[tuple[str, int], ...]  # the split of the source and the number in it
    paths: tuple[str, ...]
    files: Digests
    labels: tuple[str, ...]

    def pixels(self, number: int, size: int) -> Pixels:
        """One picture (size, size, 3); raises `PictureError`."""
        split, place = self.places[number]
        pictures, _ = self.source.splits[split]
        if isinstance(pictures, np.ndarray):
            fitted: Pixels = fit_all(pictures[place : place + 1], size)[0]
            return fitted
        return prepare(pictures[place], size)

    def images(self, numbers: Index, size: int, digests: Digests, cache: PixelCache | None) -> Pixels | Files:
        """Some pictures: files stay on disk, arrays are brought to size."""
        if all(isinstance(pictures, list) for pictures, _ in self.source.splits.values()):
            paths = [self.file(number) for number in numbers.tolist()]
            return Files(paths, size, digests, self.files[numbers], cache)
        images = np.empty((len(numbers), size, size, 3), np.uint8)
        for row, number in enumerate(numbers.tolist()):
            images[row] = self.pixels(number, size)
        return images

    def file(self, number: int) -> Path:
        """The path of a picture that is a file."""
        split, place = self.places[number]
        pictures, _ = self.source.splits[split]
        assert isinstance(pictures, list)
        return pictures[place]


@dataclass(frozen=True)
class Changes:
    """Pictures by path that are not as they were when the run began."""

    came: tuple[str, ...]
    gone: tuple[str, ...]
    changed: tuple[str, ...]
    relabelled: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.came or self.gone or self.changed)

    def sentences(self, place: str, run: str) -> list[str]:
        """What happened to the folder, for a person."""
        told = []
        for paths, what in (
            (self.came, f"came to {place} after run {run} began; none is judged or trained on"),
            (self.gone, f"of run {run} gone from {place}"),
            (self.changed, f"of {place} changed since run {run} began; not used"),
            (self.relabelled, f"of {place} under another class now; the label is that of run {run}"),
        ):
            if paths:
                told.append(f"{counted(len(paths), 'picture')} {what} ({some(paths)})")
        return told

    def in_short(self) -> str:
        """Like ``2 came (a.png, b.png), 1 changed (c.png)``."""
        kinds = {
            "came": self.came,
            "gone": self.gone,
            "changed": self.changed,
            "under another class": self.relabelled,
        }
        return ", ".join(f"{len(paths):,} {kind} ({some(paths)})" for kind, paths in kinds.items() if paths)


def listed(source: Source, report: Report = silent) -> Listing:
    """List a source's pictures; each file is read, none is decoded."""
    places: list[tuple[str, int]] = []
    paths: list[str] = []
    labels: list[str] = []
    files: list[bytes] = []
    total = sum(len(numbers) for _, numbers in source.splits.values())
    for split, (pictures, numbers) in source.splits.items():
        places += [(split, number) for number in range(len(numbers))]
        paths += paths_of(source, split)
        labels += [source.classes[label] for label in numbers.tolist()]
        for digest in _digests(pictures):
            files.append(digest)
            if len(files) % 256 == 0:
                report(len(files), total)
    return Listing(source, tuple(places), tuple(paths), np.array(files, dtype="S32"), tuple(labels))


def _digests(pictures: Pixels | list[Path]) -> Iterator[bytes]:
    """The digests of the bytes of pictures, in their order."""
    if isinstance(pictures, np.ndarray):
        for image in pictures:
            yield bytes_digest(image.tobytes())
        return
    with ThreadPoolExecutor(workers()) as pool:
        yield from pool.map(file_digest, pictures)


def match(
    record: Record,
    listing: Listing,
    classes: Sequence[str],
    size: int,
) -> tuple[dict[str, Index], Changes]:
    """For each picture of the record its number in the listing, or -1: by its bytes, else its pixels."""
    numbers = {name: np.full(len(split), -1, np.int64) for name, split in record.splits.items()}
    free = _by_digest(range(len(listing.paths)), listing.files)
    files = {name: split.files for name, split in record.splits.items()}
    _give(record, listing, classes, free, numbers, files)
    left = [number for rest in free.values() for number in rest]
    left = [number for number in left if listing.files[number] not in record.bad_files]
    if left and any((rows < 0).any() for rows in numbers.values()):
        free = _by_digest(left, _pixel_digests(listing, left, size))
        _give(
            record,
            listing,
            classes,
            free,
            numbers,
            {name: split.digests for name, split in record.splits.items()},
        )
        left = [number for rest in free.values() for number in rest]
    return numbers, _changes(record, listing, classes, numbers, sorted(left))


def _by_digest(numbers: Iterable[int], digests: Digests) -> dict[bytes, list[int]]:
    free: dict[bytes, list[int]] = {}
    for number, digest in zip(numbers, digests.tolist(), strict=True):
        free.setdefault(digest, []).append(number)
    return free


def _give(
    record: Record,
    listing: Listing,
    classes: Sequence[str],
    free: dict[bytes, list[int]],
    numbers: dict[str, Index],
    digests: dict[str, Digests],
) -> None:
    """Give pictures of the record free numbers: of equal ones at the same path, then of the same class."""
    for by_path, by_label in ((True, True), (True, False), (False, True), (False, False)):
        for name, split in record.splits.items():
            for row in np.flatnonzero(numbers[name] < 0).tolist():
                for number in free.get(digests[name][row], ()):
                    elsewhere = by_path and listing.paths[number] != split.paths[row]
                    otherwise = by_label and listing.labels[number] != classes[split.labels[row]]
                    if not elsewhere and not otherwise:
                        numbers[name][row] = number
                        free[digests[name][row]].remove(number)
                        break


def _pixel_digests(listing: Listing, numbers: list[int], size: int) -> Digests:
    def one(number: int) -> bytes:
        try:
            return pixel_digest(listing.pixels(number, size))
        except PictureError:
            return b""

    with ThreadPoolExecutor(workers()) as pool:
        return np.array(list(pool.map(one, numbers)), dtype="S16")


def _changes(
    record: Record,
    listing: Listing,
    classes: Sequence[str],
    numbers: dict[str, Index],
    left: list[int],
) -> Changes:
    gone: list[str] = []
    relabelled: list[str] = []
    for name in SPLITS:
        split = record.splits[name]
        for row, number in enumerate(numbers[name].tolist()):
            if number < 0:
                gone.append(split.paths[row])
            elif listing.labels[number] != classes[split.labels[row]]:
                relabelled.append(f"{listing.paths[number]}: was {classes[split.labels[row]]}")
    came = [listing.paths[number] for number in left]
    both = set(gone) & set(came)
    return Changes(
        tuple(path for path in came if path not in both), tuple(path for path in gone if path not in both),
        tuple(sorted(both)), tuple(relabelled),
    )  # fmt: skip


def recalled(
    record: Record,
    listing: Listing,
    numbers: dict[str, Index],
    size: int,
    need: Sequence[str],
    report: Report = silent,
    cache: PixelCache | None = None,
) -> tuple[dict[str, Split], int]:
    """The splits of the record, of the pictures still there, and how many decode to other pixels than then.

    Splits in ``need`` are decoded now, as far as they fit into memory; others stay on disk until asked for.
    """
    splits = {name: _kept(record.splits[name], listing, numbers[name], size, cache) for name in SPLITS}
    total = sum(len(splits[name]) for name in need)
    if total * size * size * 3 > (data.RESIDENT_BYTES if cache is None else data.CACHED_BYTES):
        return splits, 0
    other, done = 0, 0
    for name in need:
        split = splits[name]
        pixels, digests = _decoded(split.images, part_of(report, done, total))
        done += len(split)
        apart = int((digests != split.digests).sum())
        splits[name] = dataclasses.replace(split, images=pixels, digests=digests)
        if apart:
            splits[name] = splits[name].take(splits[name].by_content())
        other += apart
    report(total, total)
    return splits, other


def _kept(split: Split, listing: Listing, numbers: Index, size: int, cache: PixelCache | None) -> Split:
    rows = np.flatnonzero(numbers >= 0)
    labels, digests = split.labels[rows], split.digests[rows]
    images = listing.images(numbers[rows], size, digests, cache)
    paths = tuple(listing.paths[number] for number in numbers[rows].tolist())
    return Split(images, labels, digest_of(digests, labels), digests, split.files[rows], paths)


def _decoded(images: Pixels | Files, report: Report) -> tuple[Pixels, Digests]:
    """The pixels, and their digests as they are now."""
    if isinstance(images, Files):
        files = Files(images.paths, images.size, None, images.files, images.cache)
        pixels = np.empty((len(images), images.size, images.size, 3), np.uint8)
        for start in range(0, len(images), 64):
            pixels[start : start + 64] = files[start : start + 64]
            report(start, len(images))
    else:
        pixels = images
    return pixels, np.array([pixel_digest(image) for image in pixels], dtype="S16")
