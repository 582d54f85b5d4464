"""From a source to uint8 splits at model size: decoded once, split by the seed, checked, fingerprinted.

The order of pictures within a split is that of their content, so the same pictures train the same network
bit for bit whether they come from a folder or an npz, under whatever names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfdeploy.config import DataConfig
from lfdeploy.errors import LfdeployError, PictureError
from lfdeploy.images import MAX_PIXELS, Picture, Pixels, decode, fit, fit_all, prepare
from lfdeploy.sources import Labels, Source, read

RESIDENT_BYTES = 3 << 30
Report = Callable[[int, int], None]


class Files:
    """Pictures that stay on disk: ``files[indices]`` decodes just those, in threads, to uint8 (B, S, S, 3)."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths, self.size = list(paths), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: NDArray[np.int64] | slice) -> Pixels:
        chosen = self.paths[index] if isinstance(index, slice) else [self.paths[i] for i in index]
        with ThreadPoolExecutor(_workers()) as pool:
            return np.stack(list(pool.map(lambda path: prepare(path, self.size), chosen)))


@dataclass(frozen=True)
class Split:
    """One split: images uint8 (N, S, S, 3), an array or `Files`; labels (N,); a digest of all, and one of each picture's pixels."""

    images: Pixels | Files
    labels: Labels
    digest: str
    digests: NDArray[np.bytes_] = field(default_factory=lambda: np.zeros(0, "S16"))

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[Pixels, Labels]]:
        """The whole split in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size], self.labels[start : start + size]


@dataclass(frozen=True)
class Data:
    """What `load` returns. ``remarks`` are sentences for the user; ``bad`` names pictures left out and why."""

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

    @property
    def fingerprint(self) -> str:
        """A hash of every pixel, label and class name that this data can show."""
        parts = (*self.classes, str(self.image_size), self.train.digest, self.val.digest, self.test.digest)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def split(self, name: str) -> Split:
        """``train``, ``val`` or ``test``."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


@dataclass(frozen=True)
class _Prepared:
    images: Pixels | Files
    labels: Labels
    digests: NDArray[np.bytes_]

    def take(self, index: NDArray[np.int64]) -> _Prepared:
        if isinstance(self.images, Files):
            images: Pixels | Files = Files([self.images.paths[i] for i in index], self.images.size)
        else:
            images = self.images[index]
        return _Prepared(images, self.labels[index], self.digests[index])

    def split(self) -> Split:
        digest = hashlib.sha256(self.digests.tobytes() + self.labels.tobytes()).hexdigest()
        return Split(self.images, self.labels, digest, self.digests)


def load(config: DataConfig, report: Report = lambda done, total: None, largest: int = 224) -> Data:
    """Read, resize, split and check.

    ``report(done, total)`` is called while pictures are decoded; ``largest`` caps the default image size.
    Raises `LfdeployError` for no pictures, one class, an empty class, a corrupt picture under ``strict``.
    """
    source = read(config.data, config.data_root)
    if len(source.classes) < 2:
        raise LfdeployError(f"{config.data} has one class, '{source.classes[0]}'; a classifier needs at least two.")
    if not any(len(labels) for _, labels in source.splits.values()):
        raise LfdeployError(f"{config.data} holds no pictures.")
    size = config.image_size or min(largest, source.image_size or _natural_size(source))
    total = sum(len(labels) for _, labels in source.splits.values())
    resident = total * size * size * 3 <= RESIDENT_BYTES
    bad: list[str] = []
    parts: dict[str, _Prepared] = {}
    done = 0
    for name, (pictures, labels) in source.splits.items():
        parts[name] = _prepare(pictures, labels, size, resident, bad, lambda n, base=done: report(base + n, total))  # type: ignore[misc]
        done += len(labels)
    report(total, total)
    if bad and config.strict:
        raise LfdeployError(f"{bad[0]} ({len(bad)} such files; --strict was given)")
    remarks = list(source.remarks)
    present = np.bincount(parts["train"].labels, minlength=len(source.classes))
    for label, count in enumerate(present):
        if count == 0:
            raise LfdeployError(f"class '{source.classes[label]}' has no readable training picture. Add some, or remove it.")
    if "test" not in parts:
        parts["train"], parts["test"] = _hold_out(parts["train"], config.test_fraction, config.seed)
        remarks.append(f"no test split: {len(parts['test'].labels)} pictures held out by seed {config.seed}")
    shared = len(np.intersect1d(parts["train"].digests, parts["test"].digests))
    if shared:
        remarks.append(f"{shared} pictures are in both train and test (same pixels): test accuracy flatters by up to that")
    if "val" not in parts:
        parts["train"], parts["val"] = _hold_out(parts["train"], config.val_fraction, config.seed)
    if len(parts["test"].labels) == 0:
        raise LfdeployError(f"{config.data}: the test split is empty; add pictures or raise --test-fraction.")
    stem = config.data if not Path(config.data).exists() else Path(config.data).resolve().stem
    return Data(
        name=stem, classes=source.classes, image_size=size, bad=tuple(bad), remarks=tuple(remarks),
        train=parts["train"].split(), val=parts["val"].split(), test=parts["test"].split(),
        epochs=source.epochs, arch=source.arch, flip=source.flip,
    )  # fmt: skip


def _workers() -> int:
    return max(2, min(16, os.cpu_count() or 2))


def _natural_size(source: Source) -> int:
    """The median short side of up to 200 training pictures, to the next multiple of 16 below, at least 16."""
    pictures, _ = source.splits["train"]
    if isinstance(pictures, np.ndarray):
        return int(min(pictures.shape[1:3]))
    sides = []
    for path in pictures[:: max(1, len(pictures) // 200)]:
        try:
            from PIL import Image

            with Image.open(path) as image:
                sides.append(min(image.size) if image.width * image.height <= MAX_PIXELS else 0)
        except OSError:
            continue
    median = int(np.median([side for side in sides if side] or [32]))
    return max(32, median // 16 * 16)


def _prepare(
    pictures: Pixels | list[Path], labels: Labels, size: int, resident: bool, bad: list[str], report: Callable[[int], None]
) -> _Prepared:
    """Bring pictures to size and into the order of their content."""
    if isinstance(pictures, np.ndarray):
        fitted = fit_all(pictures, size)
        return _ordered(_Prepared(fitted, labels, np.array([_digest(image) for image in fitted], dtype="S16")))

    def one(path: Path) -> tuple[Pixels | None, bytes, str]:
        try:
            picture: Picture = decode(path, size)
            pixels = fit(picture.image, size)
        except PictureError as error:
            return None, b"", str(error)
        return (pixels if resident else None), _digest(pixels), ""

    kept: list[int] = []
    pixels: list[Pixels] = []
    digests = []
    with ThreadPoolExecutor(_workers()) as pool:
        for index, (image, digest, fault) in enumerate(pool.map(one, pictures)):
            if fault:
                bad.append(fault)
            else:
                kept.append(index)
                digests.append(digest)
                if image is not None:
                    pixels.append(image)
            if index % 64 == 0:
                report(index)
    images: Pixels | Files
    if resident:
        images = np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.uint8)
    else:
        images = Files([pictures[i] for i in kept], size)
    return _ordered(_Prepared(images, labels[kept], np.array(digests, dtype="S16")))


def _digest(pixels: Pixels) -> bytes:
    return hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest().encode()


def _ordered(part: _Prepared) -> _Prepared:
    return part.take(np.lexsort((part.labels, part.digests)))


def _hold_out(part: _Prepared, fraction: float, seed: int) -> tuple[_Prepared, _Prepared]:
    """Split off a stratified share by the seed; every class keeps at least one picture."""
    random = np.random.default_rng(seed)
    held: list[int] = []
    for label in np.unique(part.labels):
        index = random.permutation(np.flatnonzero(part.labels == label))
        held += index[: min(round(len(index) * fraction), len(index) - 1)].tolist()
    mask = np.zeros(len(part.labels), dtype=bool)
    mask[held] = True
    return part.take(np.flatnonzero(~mask)), part.take(np.flatnonzero(mask))
