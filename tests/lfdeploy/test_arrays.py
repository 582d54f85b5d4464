"""npz files: every array that is not as it must be gives one line that says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfdeploy.arrays import npz
from lfdeploy.errors import LfdeployError

COUNT = 6
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) % 2


def write(path: Path, **other: Any) -> Path:
    """A file in order, but for the arrays that are given; None leaves one out."""
    arrays: dict[str, Any] = {
        "train_x": PIXELS,
        "train_y": LABELS,
        "classes": np.array(["cat", "dog"]),
    } | other
    with path.open("wb") as file:
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return path


def one_hot() -> np.ndarray:
    return np.eye(2, dtype=np.int64)[LABELS]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"train_x": PIXELS / 255}, "From 0 to 1: save np.round(train_x * 255).astype(np.uint8)"),
        ({"train_x": np.where(PIXELS > 200, np.nan, 0.5)}, "It holds NaN"),
        ({"train_x": PIXELS.astype(np.int32)}, "save train_x.round().astype(np.uint8)"),
        ({"train_x": PIXELS > 100}, "save train_x.astype(np.uint8) * 255, if 1 is white"),
        ({"train_x": (PIXELS > 100).astype(np.int8)}, "save train_x.astype(np.uint8) * 255, if 1 is white"),
        ({"train_x": PIXELS.astype(np.int16) * 2}, "more than a byte holds: scale every split alike"),
        (
            {"train_x": PIXELS.astype(np.float32) - 128},
            "np.round((train_x - -128.0) * (255 / ",
        ),
        ({"train_x": PIXELS.transpose(1, 2, 3, 0)}, "save train_x.transpose(3, 0, 1, 2)"),
        ({"valid_y": LABELS}, "lacks val_x"),
        ({"valid_x": PIXELS, "val_x": PIXELS}, "valid_x and val_x both mean val_x"),
        ({"valid_x": PIXELS / 255, "valid_y": LABELS}, "valid_x is float64"),
        ({"train_x": None, "x_train": PIXELS}, "lacks train_x, and has x_train;"),
        ({"train_x": PIXELS[..., 0]}, "save np.repeat(train_x[..., None], 3, axis=3)"),
        ({"train_x": PIXELS[..., :1]}, "save np.repeat(train_x, 3, axis=3)"),
        ({"train_x": PIXELS.transpose(0, 3, 1, 2)}, "save train_x.transpose(0, 2, 3, 1)"),
        ({"train_x": np.concatenate([PIXELS, PIXELS[..., :1]], 3)}, "save train_x[..., :3]"),
        ({"train_x": np.zeros((COUNT, 0, 0, 3), np.uint8)}, "must be uint8 (N, H, W, 3)"),
        ({"train_x": np.array([None] * COUNT)}, "train_x holds Python objects"),
        ({"train_y": LABELS.astype(float)}, "save train_y.astype(np.int64)"),
        ({"train_y": np.where(LABELS == 1, np.nan, 0.0)}, "labels must be whole numbers"),
        ({"train_y": LABELS.astype(bool)}, "labels must be whole numbers"),
        ({"train_y": one_hot()}, "one-hot"),
        ({"train_y": LABELS[:, None]}, "save train_y[:, 0]"),
        ({"train_y": LABELS[:-1]}, "one label for each of the 6 pictures"),
        ({"train_y": LABELS - 1}, "runs from -1 to 0, but there are 2 classes"),
        ({"train_y": LABELS + 1}, "Labels are counted from 0"),
        ({"train_y": np.array(["cat", "dog"] * 3)}, "the places of the names in classes"),
        ({"train_y": np.array(["cat", None] * 3)}, "train_y holds Python objects"),
        ({"train_y": None}, "lacks train_y"),
        ({"classes": None}, "lacks classes"),
        ({"classes": np.array(["cat"])}, "runs from 0 to 1, but there are 1 classes"),
        ({"classes": np.array(["cat", "cat"])}, "twice the class 'cat'"),
        ({"classes": np.array(["cat", "Cat "])}, "differ only in case"),
        ({"classes": np.array(["cat", ""])}, "a class without a name"),
        ({"classes": np.array([b"caf\xe9", b"dog"])}, "is not UTF-8"),
        ({"classes": np.zeros(0, "U1"), "train_x": PIXELS[:0], "train_y": LABELS[:0]}, "classes is empty"),
        ({"classes": np.array([["cat", "dog"]])}, "it must be a row of names"),
        ({"classes": np.array(["cat", 7], dtype=object)}, "save it as classes.astype(str)"),
        ({"test_x": PIXELS}, "lacks test_y"),
        ({"val_y": LABELS}, "lacks val_x"),
    ],
)
def test_refusals(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(LfdeployError) as caught:
        npz(write(tmp_path / "d.npz", **arrays))
    assert words.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
def test_whole_numbers_of_any_kind_are_labels(tmp_path: Path, kind: type) -> None:
    source = npz(write(tmp_path / "d.npz", train_y=LABELS.astype(kind)))
    assert source.splits["train"][1].tolist() == LABELS.tolist()
    assert source.splits["train"][1].dtype == np.int64


@pytest.mark.parametrize("classes", [[b"cat", b"dog"], ["cat", " dog"], ["cat", "dog"]])
def test_names_of_classes(tmp_path: Path, classes: list[str]) -> None:
    assert npz(write(tmp_path / "d.npz", classes=np.array(classes))).classes == ("cat", "dog")


def test_numbers_as_names(tmp_path: Path) -> None:
    assert npz(write(tmp_path / "d.npz", classes=np.arange(2))).classes == ("0", "1")


def test_only_pictures_to_be_judged_need_no_train(tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", train_x=None, train_y=None, test_x=PIXELS, test_y=LABELS)
    with pytest.raises(LfdeployError, match="lacks train_x"):
        npz(path)
    assert list(npz(path, judged=True).splits) == ["test"]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_splits_are_spelled_as_folders_are(tmp_path: Path, name: str) -> None:
    source = npz(write(tmp_path / "d.npz", **{f"{name}_x": PIXELS, f"{name}_y": LABELS}))
    assert list(source.splits) == ["train", "val"] and source.remarks == ()


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", extra_x=PIXELS, extra_y=LABELS, ids=LABELS)
    source = npz(path)
    assert list(source.splits) == ["train"]
    assert source.remarks == (
        f"{path} also holds extra_x, extra_y, ids, left out: names that stand for no split",
    )


def test_one_array_is_no_npz(tmp_path: Path) -> None:
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, PIXELS)
    with pytest.raises(LfdeployError, match=r"one array without a name.* np\.savez\("):
        npz(tmp_path / "d.npz")


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.float32])
def test_what_is_advised_for_values_keeps_their_order(kind: type, tmp_path: Path) -> None:
    """Executed as it is printed: the darkest becomes 0, the brightest 255, also far from zero."""
    offset = 1_234_567 if kind is np.int32 else -128
    given = (PIXELS.astype(np.int64) + offset).astype(kind)
    given[0, 0, 0], given[0, 0, 1] = (offset, offset + 255)
    if kind is np.int16:
        given = given * 3
    with pytest.raises(LfdeployError) as caught:
        npz(write(tmp_path / "x.npz", train_x=given))
    code = re.search(r"as in (np\.round.*)\.$", str(caught.value))
    assert code is not None
    scaled = eval(code[1], {"np": np, "train_x": given, "float": float})
    order = np.argsort(given, axis=None, kind="stable")
    assert scaled.dtype == np.uint8 and (np.diff(scaled.ravel()[order].astype(int)) >= 0).all()
    assert (scaled.min(), scaled.max()) == (0, 255)
