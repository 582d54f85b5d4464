"""Splits: pictures at model size, in memory or on disk, with labels and the digests that tell them apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels, prepare
from lfdeploy.sources import Labels

Digests = NDArray[np.bytes_]


class Cache(Protocol):
    """Where decoded pictures are kept by the digest of their file."""

    def get(self, file: bytes) -> Pixels | None:
        """Pixels, or None."""

    def add(self, file: bytes, image: Pixels) -> None:
        """Keep them."""

    def flush(self) -> None:
        """Let others see them."""


class Files:
    """Pictures that stay on disk: ``files[indices]`` decodes just those, in threads, to uint8 (B, S, S, 3),
    or takes them from a ``cache`` by the digests ``files`` (N,) of their bytes.

    With ``digests`` (N,) of the pixels that they had in training, other pixels raise `LfdeployError`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int,
        digests: Digests | None = None,
        files: Digests | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.paths, self.size, self.digests = list(paths), size, digests
        self.files, self.cache = files, cache

    def take(self, index: NDArray[np.int64]) -> Files:
        """Some of them."""
        digests, files = (None if known is None else known[index] for known in (self.digests, self.files))
        return Files([self.paths[i] for i in index], self.size, digests, files, self.cache)

    def one(self, number: int) -> Pixels:
        """The pixels (S, S, 3) of one."""
        file = b"" if self.files is None else bytes(self.files[number])
        return prepared(self.paths[number], self.size, self.cache, file)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: NDArray[np.int64] | slice) -> Pixels:
        numbers = np.arange(len(self.paths))[index]
        if not len(numbers):
            return np.zeros((0, self.size, self.size, 3), np.uint8)
        with ThreadPoolExecutor(workers()) as pool:
            pixels = np.stack(list(pool.map(self.one, numbers)))
        if self.cache is not None:
            self.cache.flush()
        if self.digests is None:
            return pixels
        for i, image in zip(numbers, pixels, strict=True):
            if pixel_digest(image) != self.digests[i]:
                other = f"{self.paths[i]} does not decode to the pixels that were trained with"
                raise LfdeployError(f"{other}; was Pillow changed?")
        return pixels


@dataclass(frozen=True)
class Split:
    """One split: images uint8 (N, S, S, 3), an array or `Files`; labels (N,); a digest of it all.

    ``digests``: of each picture's pixels; ``files``: of the bytes behind each picture; ``paths``: where each
    is, from what ``--data`` names.
    """

    images: Pixels | Files
    labels: Labels
    digest: str
    digests: Digests = field(default_factory=lambda: np.zeros(0, "S16"))
    files: Digests = field(default_factory=lambda: np.zeros(0, "S32"))
    paths: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[Pixels, Labels]]:
        """The whole split in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size], self.labels[start : start + size]

    def take(self, index: NDArray[np.int64]) -> Split:
        """The pictures of some indices, as a split of their own."""
        images = self.images.take(index) if isinstance(self.images, Files) else self.images[index]
        labels, digests = self.labels[index], self.digests[index]
        return Split(
            images,
            labels,
            digest_of(digests, labels),
            digests,
            self.files[index],
            tuple(self.paths[i] for i in index),
        )

    def by_content(self) -> NDArray[np.int64]:
        """The indices in the order of the pictures' content."""
        return np.lexsort((self.labels, self.digests))


def prepared(
    path: Path, size: int, cache: Cache | None, file: bytes, notes: list[tuple[Path, str]] | None = None
) -> Pixels:
    """The pixels (size, size, 3) of a file whose bytes have the digest ``file``: from the cache, or decoded.

    ``notes`` takes what is odd about a picture that is decoded. Raises `PictureError` for what is no picture.
    """
    found = cache.get(file) if cache is not None and file else None
    if found is not None:
        return found
    odd: list[str] = []
    image = prepare(path, size, odd)
    if notes is not None:
        notes += [(path, note) for note in odd]
    if cache is not None and file and file_digest(path) == file:  # it may have been replaced meanwhile
        cache.add(file, image)
    return image


def workers() -> int:
    """How many threads decode or hash files."""
    return max(2, min(16, os.cpu_count() or 2))


def pixel_digest(pixels: Pixels) -> bytes:
    """The digest of a picture's pixels at model size, 16 letters."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest().encode()


def bytes_digest(blob: bytes) -> bytes:
    """The digest of a file's bytes, 32 letters."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest().encode()


def file_digest(path: Path) -> bytes:
    """The digest of a file's bytes; empty for a file that cannot be read."""
    try:
        return bytes_digest(path.read_bytes())
    except OSError:
        return b""


def digest_of(digests: Digests, labels: Labels) -> str:
    """The digest of a split."""
    return hashlib.sha256(digests.tobytes() + labels.tobytes()).hexdigest()
