"""Numbers about data: equal pictures, two labels, classes that a split lacks; and what a seed may be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_pictures import classes
from numpy.typing import NDArray

from lfdeploy.config import LARGEST_SEED, DataConfig
from lfdeploy.data import Data, load
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.held_out_splits import drawn_out


def read(root: Path, **settings: object) -> Data:
    return load(DataConfig(data=str(root), **settings))  # type: ignore[arg-type]


def splits(root: Path, names: tuple[str, ...] = ("train", "val", "test")) -> Path:
    for first, name in enumerate(names):
        classes(root / name, ("cat", "dog"), count=6, first=100 * first)
    return root


@pytest.mark.parametrize("pair", ["train test 30", "train val 5", "val test 1"])
def test_equal_pictures_are_counted_as_pictures_in_every_pair_of_splits(tmp_path: Path, pair: str) -> None:
    one, other, copies = pair.split()[0], pair.split()[1], int(pair.split()[2])
    splits(tmp_path)
    for i in range(copies):
        shutil.copy(tmp_path / one / "cat" / "0.png", tmp_path / other / "cat" / f"copy{i}.png")
    remarks = [remark for remark in read(tmp_path).remarks if "in both" in remark]
    counted = f"{copies} pictures are" if copies > 1 else "1 picture is"
    assert len(remarks) == 1
    where = f"in both {one} and {other} (same pixels; {other} has {12 + copies})"
    assert remarks[0].startswith(f"{counted} {where}")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_one_picture_under_two_labels_is_named(tmp_path: Path, split: str) -> None:
    splits(tmp_path)
    shutil.copy(tmp_path / split / "cat" / "3.png", tmp_path / split / "dog" / "again.png")
    told = [remark for remark in read(tmp_path).remarks if "another class" in remark]
    example = f"cat: {split}/cat/3.png and dog: {split}/dog/again.png"
    assert told == [f"2 pictures of {split} have the same pixels as one of another class ({example})"]


def test_two_labels_across_splits(tmp_path: Path) -> None:
    splits(tmp_path)
    shutil.copy(tmp_path / "train" / "cat" / "3.png", tmp_path / "test" / "dog" / "again.png")
    remarks = read(tmp_path).remarks
    assert "1 picture of val or test has the same pixels as one of train of another class" in remarks
    assert any(remark.startswith("1 picture is in both train and test") for remark in remarks)


def test_clean_data_give_no_remark(tmp_path: Path) -> None:
    assert read(splits(tmp_path)).remarks == ()


def test_classes_without_pictures_in_val_or_test_are_named(tmp_path: Path) -> None:
    classes(tmp_path / "train", ("cat", "dog", "owl"), count=12)
    classes(tmp_path / "test", ("cat",), first=50)
    classes(tmp_path / "val", ("dog", "cat"), first=70)
    remarks = read(tmp_path).remarks
    assert "test has no picture of 2 classes: dog, owl" in remarks
    assert "val has no picture of 1 class: owl" in remarks


def test_a_split_without_pictures_is_named(tmp_path: Path) -> None:
    """Folders of classes that hold none."""
    splits(tmp_path, ("train", "test"))
    for split in ("val", "test"):
        for label in ("cat", "dog"):
            shutil.rmtree(tmp_path / split / label, ignore_errors=True)
            (tmp_path / split / label).mkdir(parents=True)
    with pytest.raises(LfdeployError, match=r"the test split has no pictures; without one, a share of train"):
        read(tmp_path)
    shutil.rmtree(tmp_path / "test")
    assert "val has no pictures to choose an epoch by: the last one is kept" in read(tmp_path).remarks


def test_pixels_that_were_divided_are_named(tmp_path: Path) -> None:
    """As bytes they are 0 or 1; a picture that is dark is none of them."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    given = {"train_y": np.arange(40) % 2, "classes": np.array(["cat", "dog"])}
    dark = "train is nearly black: no pixel is above 1, of 255"
    for scale, told in ((255, True), (100, False)):
        np.savez(tmp_path / "x.npz", train_x=(pixels / scale).astype(np.uint8), **given)  # type: ignore[arg-type]
        assert any(remark.startswith(dark) for remark in read(tmp_path / "x.npz").remarks) is told


def test_a_class_too_small_to_be_held_out_is_named(tmp_path: Path) -> None:
    classes(tmp_path, ("cat", "dog"), count=20)
    classes(tmp_path, ("owl",), count=1)
    remarks = read(tmp_path).remarks
    for split in ("test", "val"):
        assert f"{split} has no picture of 1 class: owl" in remarks


@pytest.mark.parametrize("seed", range(5))
def test_equal_pictures_are_not_torn_apart(tmp_path: Path, seed: int) -> None:
    classes(tmp_path, ("cat", "dog"), count=20)
    for i in range(3):
        for copy in range(3):
            shutil.copy(tmp_path / "cat" / f"{i}.png", tmp_path / "cat" / f"{i} again {copy}.png")
    shutil.copy(tmp_path / "cat" / "9.png", tmp_path / "dog" / "a cat.png")
    data = read(tmp_path, seed=seed)
    assert not any("in both" in remark for remark in data.remarks)
    assert len(data.train) + len(data.val) + len(data.test) == 50
    assert len(data.test) and len(data.val)


def old_way(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """How splits are drawn for a run without a record, in which equal pictures were not kept together."""
    random = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        index = random.permutation(np.flatnonzero(labels == label))
        held[index[: min(round(len(index) * fraction), len(index) - 1)]] = True
    return held


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.2, 0.5])
def test_without_equal_pictures_splits_are_as_ever(fraction: float) -> None:
    labels = np.random.default_rng(1).integers(0, 7, 300)
    digests = np.array([f"{i:016d}" for i in range(300)], "S16")
    for together in (True, False):
        assert np.array_equal(drawn_out(digests, labels, fraction, 5, together), old_way(labels, fraction, 5))
    digests[::2] = digests[0]
    held = drawn_out(digests, labels, fraction, 5, together=False)
    assert np.array_equal(held, old_way(labels, fraction, 5))


def test_seeds() -> None:
    for seed in (-1, LARGEST_SEED + 1, 1732560000000000000):
        with pytest.raises(UsageError, match=f"--seed is {seed}; it must be from 0 to 4294967295"):
            DataConfig(seed=seed)
    assert DataConfig(seed=LARGEST_SEED).seed == LARGEST_SEED
