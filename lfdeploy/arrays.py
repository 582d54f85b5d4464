"""An npz file of pictures and labels; every array is checked, and a fault says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels
from lfdeploy.labels import SPELLINGS, check_labels, label_of, some, split_of
from lfdeploy.sources import Labels, Source

HOLDS = "it must hold train_x, train_y, test_x, test_y, classes"
AS_TEXT = "np.array(['cat', 'dog'])"


def npz(path: Path, judged: bool = False) -> Source:
    """An npz with train_x uint8 (N, H, W, 3), train_y (N,), test_x, test_y, classes; val_x, val_y if wanted.

    ``judged``: pictures to be judged, not trained on: any of the splits will do.
    """
    if not path.is_file():
        raise LfdeployError(f"--data {path}: no such file.")
    arrays, unused = _by_split(_read(path), path)
    splits = [split for split in SPELLINGS if f"{split}_x" in arrays or f"{split}_y" in arrays]
    if "train" not in splits and not (judged and splits):
        splits = [split for split in SPELLINGS if split == "train" or split in splits]
    needed = [f"{split}_{kind}" for split in splits for kind in "xy"] + ["classes"]
    missing = [name for name in needed if name not in arrays]
    if missing:
        has = f", and has {some(unused, 6)}" if unused else ""
        raise LfdeployError(f"{path} lacks {', '.join(missing)}{has}; {HOLDS}.")
    classes = _classes(arrays["classes"][1], path)
    parts: dict[str, tuple[Pixels | list[Path], Labels]] = {}
    for split in splits:
        (x_name, x), (y_name, y) = arrays[f"{split}_x"], arrays[f"{split}_y"]
        pixels = _pixels(x, f"{path}: {x_name}")
        parts[split] = pixels, _labels(y, f"{path}: {y_name}", len(pixels), classes)
    shapes = {pictures.shape[1:3] for pictures, _ in parts.values() if isinstance(pictures, np.ndarray)}
    wide = [f"{width}x{height}" for height, width in sorted(shapes) if height != width]
    remarks = [f"pictures of {', '.join(wide)}: only the centred square of each is seen"] if wide else []
    if unused:
        remarks.append(f"{path} also holds {some(unused, 6)}, left out: names that stand for no split")
    return Source(classes, parts, remarks=tuple(remarks))


def _by_split(
    found: dict[str, NDArray[Any]], path: Path
) -> tuple[dict[str, tuple[str, NDArray[Any]]], list[str]]:
    """The arrays with their own names, by the names they stand for, in the spellings that folders may have
    too; and the names that stand for nothing.
    """
    arrays: dict[str, tuple[str, NDArray[Any]]] = {}
    unused = []
    for name, array in found.items():
        stem, _, kind = name.rpartition("_")
        split = split_of(stem) if kind in ("x", "y") else None
        key = name if name == "classes" else f"{split}_{kind}" if split else ""
        if key in arrays:
            raise LfdeployError(f"{path}: {arrays[key][0]} and {name} both mean {key}. Leave one out.")
        if key:
            arrays[key] = name, array
        else:
            unused.append(name)
    return arrays, unused


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            one = f"{path} holds one array without a name, as np.save writes it"
            raise LfdeployError(f"{one}; save all of them: np.savez(path, train_x=..., train_y=..., ...).")
        with file:
            names = list(file.files)
            arrays = {}
            for name in names:
                try:
                    arrays[name] = file[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
                    objects = f"{path}: {name} holds Python objects, which are not read"
                    raise LfdeployError(f"{objects}. {_plain(name)}") from None
    except LfdeployError:
        raise
    except Exception as error:  # zip and header errors of many kinds
        raise LfdeployError(f"{path} cannot be read as npz: {error}.") from None
    return arrays


def _plain(name: str) -> str:
    """How an array of objects is made a plain one."""
    if name.endswith("_x"):
        return f"Save pictures of one size: {name} = np.stack([...]), uint8 (N, H, W, 3)."
    kind = "str" if name == "classes" else "np.int64"
    return f"Save it as {name}.astype({kind})."


def _classes(given: NDArray[Any], path: Path) -> tuple[str, ...]:
    if given.ndim != 1 or given.dtype.kind not in "USiu":
        shape = f"{path}: classes is {given.dtype} {given.shape}"
        raise LfdeployError(f"{shape}; it must be a row of names: {AS_TEXT}.")
    names = []
    for value in given.tolist():
        try:
            names.append(label_of(value.decode() if isinstance(value, bytes) else str(value), str(path)))
        except UnicodeDecodeError:
            raise LfdeployError(f"{path}: the class {value!r} is not UTF-8. Save {AS_TEXT}.") from None
    if not names:
        raise LfdeployError(f"{path}: classes is empty; it must be a row of names: {AS_TEXT}.")
    check_labels(names, str(path))
    return tuple(names)


def _pixels(x: NDArray[Any], name: str) -> Pixels:
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] == 3 and 0 not in x.shape[1:]:
        pixels: Pixels = x
        return pixels
    key = name.split()[-1]
    advice = _of_shape(x, key) or _of_values(x, key)
    raise LfdeployError(f"{name} is {x.dtype} {x.shape}; it must be uint8 (N, H, W, 3).{advice}")


def _of_shape(x: NDArray[Any], key: str) -> str:
    """How an array of another shape becomes one of pictures; empty where nothing is known, or needed."""
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        return " It holds NaN or infinity; find out where they come from."
    if x.ndim == 3:
        return f" Grey pictures: save np.repeat({key}[..., None], 3, axis=3)."
    if x.ndim != 4:
        return ""
    if x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        return f" Channels come last: save {key}.transpose(0, 2, 3, 1)."
    if x.shape[2] == 3 and x.shape[3] not in (1, 3):
        return f" Pictures come first: save {key}.transpose(3, 0, 1, 2)."
    if x.shape[3] == 1:
        return f" Grey pictures: save np.repeat({key}, 3, axis=3)."
    if x.shape[3] == 4:
        return f" Drop the alpha channel: save {key}[..., :3]."
    return ""


def _of_values(x: NDArray[Any], key: str) -> str:
    """How numbers of another kind become bytes."""
    if x.dtype.kind not in "fiub" or x.dtype == np.uint8 or not x.size:
        return ""
    low, high = float(np.min(x)), float(np.max(x))
    if x.dtype.kind == "f" and low >= 0 and high <= 1:
        return f" From 0 to 1: save np.round({key} * 255).astype(np.uint8)."
    if low >= 0 and high <= 1:
        return f" From 0 to 1: save {key}.astype(np.uint8) * 255, if 1 is white."
    if low >= 0 and high <= 255:
        return f" From {low:g} to {high:g}: save {key}.round().astype(np.uint8)."
    if low == high:
        return f" Every value is {low:g}."
    scaled = f"np.round(({key} - {low!r}) * (255 / {high - low!r})).astype(np.uint8)"
    return f" From {low:g} to {high:g}, more than a byte holds: scale every split alike, as in {scaled}."


def _labels(y: NDArray[Any], name: str, count: int, classes: tuple[str, ...]) -> Labels:
    key = name.split()[-1]
    shape = f"{name} is {y.dtype} {y.shape}"
    each = f"it must have one label for each of the {count} pictures"
    if y.ndim == 2 and len(y) == count and y.shape[1] == 1:
        raise LfdeployError(f"{shape}; {each}: save {key}[:, 0].")
    if y.ndim == 2 and len(y) == count and y.shape[1] == len(classes):
        raise LfdeployError(f"{shape}, one-hot; it must be class numbers (N,): save {key}.argmax(1).")
    if y.shape != (count,):
        raise LfdeployError(f"{shape}; {each}, ({count},).")
    if y.dtype.kind in "US":
        raise LfdeployError(f"{shape}; it must be class numbers from 0, the places of the names in classes.")
    if y.dtype.kind not in "iu":
        raise LfdeployError(f"{shape}; labels must be whole numbers: save {key}.astype(np.int64).")
    if count and not (y.min() >= 0 and y.max() < len(classes)):
        from_one = " Labels are counted from 0." if y.min() == 1 and y.max() == len(classes) else ""
        runs = f"{name} runs from {y.min()} to {y.max()}"
        raise LfdeployError(f"{runs}, but there are {len(classes)} classes.{from_one}")
    return y.astype(np.int64)
