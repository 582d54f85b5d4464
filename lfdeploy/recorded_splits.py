"""The pictures that a run was begun with: ``splits.npz`` in its directory, so that no split is drawn anew."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lfdeploy.data import Data
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels
from lfdeploy.split_arrays import Split, digest_of

FILE = "splits.npz"
SPLITS = ("train", "val", "test")
NO_PIXELS: Pixels = np.zeros((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Record:
    """The splits of a run, without their pixels, and digests of the files that could not be read then."""

    splits: dict[str, Split]
    bad_files: frozenset[bytes]

    def fingerprint(self, classes: list[str], image_size: int) -> str:
        """What `Data.fingerprint` was when the run began."""
        parts = (*classes, str(image_size), *(self.splits[name].digest for name in SPLITS))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def to_bytes(data: Data) -> bytes:
    """The record of splits as an npz file: per split labels (N,), digests of pixels and bytes, and paths."""
    arrays = {"bad_files": np.array(data.bad_files, dtype="S32")}
    for name in SPLITS:
        split = data.split(name)
        paths = b"\0".join(os.fsencode(path) for path in split.paths)
        arrays |= {
            f"{name}_labels": split.labels,
            f"{name}_pixels": split.digests,
            f"{name}_files": split.files,
        }
        arrays[f"{name}_paths"] = np.frombuffer(paths, np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def read_record(path: Path, classes: list[str], image_size: int, fingerprint: str) -> Record | None:
    """The record in a run's directory, or None where there is none. Raises for one that is not that run's."""
    file = path / FILE
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            splits = {name: _split(arrays, name) for name in SPLITS}
            record = Record(splits, frozenset(arrays["bad_files"].tolist()))
    except Exception as error:  # zip and header errors of many kinds
        raise LfdeployError(f"{file} is damaged: {error}.") from None
    if record.fingerprint(classes, image_size) != fingerprint:
        raise LfdeployError(f"{file} is not the record of this run: spec.json has another fingerprint.")
    return record


def _split(arrays: np.lib.npyio.NpzFile, name: str) -> Split:
    labels, pixels, files = (arrays[f"{name}_{kind}"] for kind in ("labels", "pixels", "files"))
    blob = arrays[f"{name}_paths"].tobytes()
    paths = tuple(os.fsdecode(path) for path in blob.split(b"\0")) if len(labels) else ()
    if not len(labels) == len(pixels) == len(files) == len(paths):
        raise ValueError(f"its {name} arrays have different lengths")
    return Split(NO_PIXELS, labels, digest_of(pixels, labels), pixels, files, paths)
