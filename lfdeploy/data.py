"""From a source to uint8 splits at model size: decoded once, split by the seed, checked, fingerprinted.

The order of pictures within a split is that of their content, so the same pictures train the same network bit
for bit whether they come from a folder or an npz, under whatever names.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfdeploy.config import DataConfig
from lfdeploy.data_summary import odd, outline, remarks_on, unread, untested
from lfdeploy.errors import LfdeployError, PictureError
from lfdeploy.held_out_splits import held_out
from lfdeploy.images import Pixels, fit_all
from lfdeploy.pixel_cache import PixelCache, chosen_folder, space
from lfdeploy.sources import Labels, Source, read
from lfdeploy.split_arrays import Files as Files
from lfdeploy.split_arrays import Split as Split
from lfdeploy.split_arrays import bytes_digest, file_digest, pixel_digest, prepared, workers

RESIDENT_BYTES = 1 << 30  # pictures that take more are read from their files
CACHED_BYTES = 1 << 29  # or from a cache, where there is one
Report = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """A `Report` for nobody."""


def part_of(report: Report, start: int, total: int) -> Report:
    """The report of one part of the work, which begins after ``start`` of ``total`` units."""
    return lambda done, _: report(start + done, total)


@dataclass(frozen=True)
class Data:
    """What `load` returns. ``remarks`` are sentences for the user; ``bad`` names pictures left out and why.

    ``whose`` names pictures that are judged in place of the run's own test split; ``trained_on`` (N,) then
    marks those that the run was trained on, and is None where that is not known. ``redecoded``: of how many
    of the run's pictures the bytes are as they were and the pixels are not.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    train: Split
    val: Split
    test: Split
    bad: tuple[str, ...]
    remarks: tuple[str, ...]
    epochs: int
    arch: str
    flip: bool
    bad_files: tuple[bytes, ...] = ()
    whose: str | None = None
    trained_on: NDArray[np.bool_] | None = None
    redecoded: int = 0

    @property
    def fingerprint(self) -> str:
        """A hash of every pixel, label and class name that this data can show."""
        parts = (*self.classes, str(self.image_size), self.train.digest, self.val.digest, self.test.digest)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def pictures(self) -> str:
        """A hash of all pictures with their labels, however they are split."""
        parts = [self.train, self.val, self.test]
        digests = np.concatenate([part.digests for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        order = np.lexsort((labels, digests))
        return hashlib.sha256(digests[order].tobytes() + labels[order].tobytes()).hexdigest()

    def split(self, name: str) -> Split:
        """``train``, ``val`` or ``test``."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


@dataclass(frozen=True)
class Fault:
    """A file that is no picture we can read: a word for the kind, a sentence, a digest of its bytes."""

    code: str
    message: str
    file: bytes


def load(
    config: DataConfig,
    report: Report = silent,
    largest: int = 224,
    announce: Callable[[str], None] = lambda line: None,
    together: bool = True,
    runs: Path | None = None,
) -> Data:
    """Read, resize, split and check.

    ``report(done, total)`` is called while pictures are decoded, ``announce`` before that with what was read
    and how it is understood; ``largest`` caps the default image size; ``together``: see
    `lfdeploy.held_out_splits.drawn_out`; ``runs``: beside which many decoded pictures are kept. Raises
    `LfdeployError` for no pictures, one class, an empty class, a corrupt picture under ``strict``.
    """
    source = read(config.data, config.data_root)
    announce(outline(config.data, source))
    if len(source.classes) < 2:
        one = f"{config.data} has one class, '{source.classes[0]}'"
        raise LfdeployError(f"{one}; a classifier needs at least two.")
    why = "".join(f". {remark}" for remark in source.remarks[:2])
    if not any(len(labels) for _, labels in source.splits.values()):
        raise LfdeployError(f"{config.data} holds no pictures{why}.")
    size = config.image_size or min(largest, source.image_size or natural_size(source))
    faults: list[Fault] = []
    folder = chosen_folder(config.cache, source, size, runs)
    cache = None if folder is None else PixelCache(folder, size)
    if folder is not None:
        place = f"{folder} (--cache none: nowhere)" if config.cache == "auto" else str(folder)
        announce(f"Decoded pictures are kept in {place}: {space(source, size)} for all of them.")
    notes: list[tuple[Path, str]] = []
    found = decode_all(source, size, faults, report, cache, notes)
    if faults and config.strict:
        raise LfdeployError(f"{faults[0].message} ({len(faults)} such files; --strict was given)")
    _check_classes(source, found["train"], faults)
    parts, remarks = held_out(found, config, together)
    if len(parts["test"]) == 0:
        raise LfdeployError(f"{config.data}: {untested(source, found, faults)}")
    remarks = [*unread(faults), *odd(notes, source.root), *remarks, *remarks_on(parts, source.classes)]
    return Data(
        name=name_of(config.data), classes=source.classes, image_size=size,
        train=parts["train"], val=parts["val"], test=parts["test"], remarks=(*source.remarks, *remarks),
        bad=tuple(fault.message for fault in faults), bad_files=tuple(fault.file for fault in faults),
        epochs=source.epochs, arch=source.arch, flip=source.flip,
    )  # fmt: skip


def _check_classes(source: Source, train: Split, faults: list[Fault]) -> None:
    """Raise where a class has no training picture, with what is known of the reasons."""
    for label, count in enumerate(np.bincount(train.labels, minlength=len(source.classes))):
        if count == 0:
            why = "".join(f". {remark}" for remark in [*source.remarks[:2], *unread(faults)])
            empty = f"class '{source.classes[label]}' has no readable training picture{why}"
            raise LfdeployError(f"{empty}. Add some, or remove it.")


def name_of(data: str) -> str:
    """A short name of what ``--data`` names."""
    return data if not Path(data).exists() else Path(data).resolve().stem


def decode_all(
    source: Source,
    size: int,
    faults: list[Fault],
    report: Report = silent,
    cache: PixelCache | None = None,
    notes: list[tuple[Path, str]] | None = None,
) -> dict[str, Split]:
    """Every split of a source at model size, in its order; what cannot be read goes to ``faults``, what is
    odd about a picture to ``notes``.
    """
    total = sum(len(labels) for _, labels in source.splits.values())
    resident = total * size * size * 3 <= (RESIDENT_BYTES if cache is None else CACHED_BYTES)
    parts: dict[str, Split] = {}
    done = 0
    for name, (pictures, labels) in source.splits.items():
        paths = paths_of(source, name)
        if isinstance(pictures, np.ndarray):
            parts[name] = _from_array(pictures, labels, paths, size)
        else:
            part = part_of(report, done, total)
            parts[name] = _from_files(pictures, labels, paths, size, resident, faults, part, cache, notes)
        done += len(labels)
    report(total, total)
    return parts


def paths_of(source: Source, split: str) -> list[str]:
    """Where each picture of a split is, from what ``--data`` named; for arrays its split and number."""
    pictures, _ = source.splits[split]
    if isinstance(pictures, np.ndarray):
        return [f"{split}[{number}]" for number in range(len(pictures))]
    root = source.root
    inside = [path.relative_to(root) if root and path.is_relative_to(root) else path for path in pictures]
    return [str(path) for path in inside]


def natural_size(source: Source) -> int:
    """The median short side of some 200 training pictures, to the next multiple of 16 below, at least 32; an
    array's own.
    """
    from PIL import Image

    pictures, _ = source.splits["train"]
    if isinstance(pictures, np.ndarray):
        return max(8, int(min(pictures.shape[1:3])))
    sides = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a header's odd tag or size is judged when the picture is decoded
        for path in pictures[:: max(1, len(pictures) // 200)]:
            try:
                with Image.open(path) as image:
                    sides.append(min(image.size))
            except Exception:  # of many kinds; such a file is named and left out when it is decoded
                continue
    median = int(np.median([side for side in sides if side] or [32]))
    return max(32, median // 16 * 16)


def _from_array(pictures: Pixels, labels: Labels, paths: list[str], size: int) -> Split:
    fitted = fit_all(pictures, size)
    digests = np.array([pixel_digest(image) for image in fitted], dtype="S16")
    files = np.array([bytes_digest(image.tobytes()) for image in pictures], dtype="S32")
    return Split(fitted, labels, "", digests, files, tuple(paths))


def _from_files(
    pictures: list[Path],
    labels: Labels,
    paths: list[str],
    size: int,
    resident: bool,
    faults: list[Fault],
    report: Report,
    cache: PixelCache | None,
    notes: list[tuple[Path, str]] | None,
) -> Split:
    """Decode files in threads, into one array where they all stay in memory."""
    pixels = np.empty((len(pictures) if resident else 0, size, size, 3), np.uint8)

    def one(number: int) -> tuple[bytes, bytes, Fault | None]:
        file = file_digest(pictures[number])
        try:
            image = prepared(pictures[number], size, cache, file, notes)
        except PictureError as error:
            return file, b"", Fault(error.code, str(error), file)
        if resident:
            pixels[number] = image
        return file, pixel_digest(image), None

    kept: list[int] = []
    rows: list[tuple[bytes, bytes]] = []
    with ThreadPoolExecutor(workers()) as pool:
        for number, (file, digest, fault) in enumerate(pool.map(one, range(len(pictures)))):
            if fault:
                faults.append(fault)
            else:
                kept.append(number)
                rows.append((file, digest))
            if number % 64 == 0:
                report(number, len(pictures))
    if cache is not None:
        cache.flush()
    files, digests = (
        np.array([file for file, _ in rows], "S32"),
        np.array([digest for _, digest in rows], "S16"),
    )
    images: Pixels | Files = Files([pictures[i] for i in kept], size, None, files, cache)
    if resident:
        images = pixels if len(kept) == len(pictures) else pixels[kept]
    return Split(images, labels[kept], "", digests, files, tuple(paths[i] for i in kept))
