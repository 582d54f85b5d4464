"""Decoded pictures on disk, found again by the content of their files: what was decoded once is read from a
mapped file, by every command and whatever the picture is called.

Two files for each model size, rule of resizing and version of Pillow: rows of pixels, and an index with the
digests of each row's file and pixels. Rows are only ever added, under a lock, the pixels before their
digests; a row whose pixels do not have their digest is as good as none.
"""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import numpy as np
import PIL

from lfdeploy.console import say
from lfdeploy.errors import UsageError
from lfdeploy.images import RESIZE, Pixels
from lfdeploy.sources import Source
from lfdeploy.split_arrays import pixel_digest

RECORD = np.dtype([("file", "S32"), ("pixels", "S16")])
BATCH = 64  # rows that are written together
AUTOMATIC = ".pixels"  # the folder beside the runs
MANY, LARGE = 5000, 1 << 29  # pictures, and bytes of their pixels, from which on they are kept there


class PixelCache:
    """The pictures (size, size, 3) of a folder by the digests of their files."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size, self.row = folder, size, size * size * 3
        stem = f"{size}px-rule{RESIZE['version']}-pillow{PIL.__version__}"
        self.pixels, self.index = folder / f"{stem}.pixels", folder / f"{stem}.index"
        self.open, self.waiting = True, list[tuple[bytes, Pixels]]()
        self.lock = threading.Lock()
        self.rows: dict[bytes, tuple[int, bytes]] = {}
        self.mapped: Pixels = np.zeros((0, size, size, 3), np.uint8)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in (self.pixels, self.index):
                file.touch()
            self._look()
        except OSError as error:
            self._close(error)

    def get(self, file: bytes) -> Pixels | None:
        """The pixels of a file with this digest; None where they are not here."""
        found = self.rows.get(file)
        if found is None:
            return None
        image = np.array(self.mapped[found[0]])
        if pixel_digest(image) == found[1]:
            return image
        self.rows.pop(file, None)  # damaged: it will be added anew
        return None

    def add(self, file: bytes, image: Pixels) -> None:
        """Keep the pixels of a file; they are written with others, or by `flush`."""
        with self.lock:
            self.waiting.append((file, image))
            if len(self.waiting) >= BATCH:
                self._write()

    def flush(self) -> None:
        """Write what waits."""
        with self.lock:
            self._write()

    def _write(self) -> None:
        """Add the rows that nobody has written yet."""
        rows, self.waiting = self.waiting, []
        if not rows or not self.open:
            return
        try:
            with self.index.open("r+b") as index, self.pixels.open("r+b") as pixels:
                fcntl.flock(index, fcntl.LOCK_EX)
                self._look()
                new = {file: image for file, image in rows if file not in self.rows}
                count = index.seek(0, 2) // RECORD.itemsize
                pixels.seek(count * self.row)
                for image in new.values():
                    pixels.write(np.ascontiguousarray(image).data)
                pixels.flush()
                index.seek(count * RECORD.itemsize)
                records = [(file, pixel_digest(image)) for file, image in new.items()]
                index.write(np.array(records, RECORD).tobytes())
            self._look()
        except OSError as error:
            self._close(error)

    def _close(self, error: OSError) -> None:
        self.open = False
        say(f"Note: {self.folder} takes no pictures ({error.strerror}): they are decoded each time.")

    def _look(self) -> None:
        """Map the pixels as far as they are there now, and read what the index has more than before."""
        known = len(self.mapped)
        count = min(self.index.stat().st_size // RECORD.itemsize, self.pixels.stat().st_size // self.row)
        if count <= known:
            return
        shape = (count, self.size, self.size, 3)
        self.mapped = np.memmap(self.pixels, np.uint8, "r", shape=shape)
        more = np.fromfile(self.index, RECORD, count - known, offset=known * RECORD.itemsize)
        self.rows |= {file: (known + number, digest) for number, (file, digest) in enumerate(more.tolist())}


def chosen_folder(setting: str | None, source: Source, size: int, runs: Path | None) -> Path | None:
    """Where a training keeps the pictures of a source, by its setting ``cache``: in the folder that it names,
    or (auto) beside the ``runs`` where there are many; None where nowhere.

    Raises `UsageError` for a folder with pictures that are no files.
    """
    files = any(isinstance(pictures, list) for pictures, _ in source.splits.values())
    if setting == "auto":
        count = sum(len(labels) for _, labels in source.splits.values())
        many = count >= MANY or count * size * size * 3 >= LARGE
        return runs / AUTOMATIC if runs is not None and files and many else None
    if setting in (None, "none"):
        return None
    if not files:
        raise UsageError(f"--cache {setting} has no meaning for pictures that are no files; drop it.")
    return Path(str(setting))


def known_folder(setting: str | None, runs: Path) -> Path | None:
    """Where pictures of a run among ``runs`` may be kept, by its setting ``cache``; None where nowhere."""
    if setting == "auto":
        return runs / AUTOMATIC if (runs / AUTOMATIC).is_dir() else None
    return None if setting in (None, "none") else Path(str(setting))


def space(source: Source, size: int) -> str:
    """How much room the pictures of a source take, as said before they are written."""
    total = sum(len(labels) for _, labels in source.splits.values()) * size * size * 3
    return f"{total / 1e9:.1f} GB" if total >= 1e8 else f"{max(1, round(total / 1e6))} MB"
