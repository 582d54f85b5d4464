"""What a folder means: layouts, names, links, and the count of everything that is left out."""

from __future__ import annotations

import os
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_pictures import classes, fill, picture

from lfdeploy.config import DataConfig
from lfdeploy.data import load
from lfdeploy.errors import LfdeployError
from lfdeploy.folders import folder
from lfdeploy.labels import split_of
from lfdeploy.sources import Source


def counts(source: Source) -> dict[str, int]:
    return {split: len(labels) for split, (_, labels) in source.splits.items()}


def refusal(root: Path, judged: bool = False) -> str:
    with pytest.raises(LfdeployError) as caught:
        folder(root, judged)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (
            (
                "train",
                "Training",
                "TRAIN",
                "train_set",
                "trainset",
                "train-images",
                "seg_train",
                "Train 2017",
            ),
            "train",
        ),
        (("val", "Valid", "validation", "VALIDATION_SET", "dev", "eval", "val2017"), "val"),
        (("test", "Testing", "TEST", "test_set", "Test Images", "tests"), "test"),
        (
            ("cat", "trainer", "contest", "latest", "valley", "device", "tested", "set", "train station", ""),
            None,
        ),
    ],
)
def test_spellings_of_splits(names: tuple[str, ...], split: str | None) -> None:
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, split)


@pytest.mark.parametrize("names", ["Training Testing", "TRAIN Test", "train_set test_set"])
def test_split_folders_in_people_s_spellings(tmp_path: Path, names: str) -> None:
    train, test = names.split()
    classes(tmp_path / train, count=5)
    classes(tmp_path / test, count=2, first=50)
    source = folder(tmp_path)
    assert source.classes == ("cat", "dog", "owl")
    assert counts(source) == {"train": 15, "test": 6}


def test_train_and_val_alone(tmp_path: Path) -> None:
    classes(tmp_path / "train", count=10)
    classes(tmp_path / "dev", count=2, first=50)
    data = load(DataConfig(data=str(tmp_path)))
    assert (len(data.train), len(data.val), len(data.test)) == (24, 6, 6)
    assert any("6 pictures held out" in remark for remark in data.remarks)


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "validation"):
        classes(tmp_path / name)
    told = refusal(tmp_path)
    assert "val/ and validation/ both mean the val split" in told


@pytest.mark.parametrize("name", ["test", "Validation", "TRAIN"])
def test_a_mixture_of_splits_and_classes_lists_both_readings(tmp_path: Path, name: str) -> None:
    classes(tmp_path, ("cat", "dog"))
    fill(tmp_path / name)
    told = refusal(tmp_path)
    assert f"{name}/, and cat/, dog/ left out" in told
    assert "As classes: " in told and "Rename" in told and "move" in told


def test_a_folder_without_pictures_beside_splits_is_said(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.json").write_text("{}")
    source = folder(tmp_path)
    assert source.classes == ("cat", "dog", "owl")
    assert any("1 folder left out: no pictures inside (annotations)" in remark for remark in source.remarks)


def test_test_alone_is_for_judging(tmp_path: Path) -> None:
    classes(tmp_path / "test")
    assert "no train/" in refusal(tmp_path)
    assert counts(folder(tmp_path, judged=True)) == {"test": 12}


def test_splits_below_classes_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name / "train")
        fill(tmp_path / name / "test")
    assert "belongs above the classes" in refusal(tmp_path)


def test_splits_in_a_folder_beside_others_are_the_data_set(tmp_path: Path) -> None:
    """As detectors' data sets are laid out; the advice can be followed."""
    for split in ("train", "val"):
        classes(tmp_path / "images" / split)
    fill(tmp_path / "labels" / "train")
    assert f"type --data {tmp_path / 'images'}" in refusal(tmp_path)
    assert set(counts(folder(tmp_path / "images"))) == {"train", "val"}


def test_an_unlabelled_test_folder_is_refused(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    fill(tmp_path / "test")
    assert "4 pictures but no class folders" in refusal(tmp_path)


def test_an_empty_split_folder_is_refused(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    (tmp_path / "val").mkdir()
    assert "is empty" in refusal(tmp_path)


def test_wrapping_folders(tmp_path: Path) -> None:
    classes(tmp_path / "a" / "dataset" / "train")
    (tmp_path / "a" / "__MACOSX").mkdir()
    source = folder(tmp_path / "a")
    assert source.classes == ("cat", "dog", "owl")
    assert any("dataset/" in remark for remark in source.remarks)
    classes(tmp_path / "b" / "dataset")
    assert f"type --data {tmp_path / 'b' / 'dataset'}" in refusal(tmp_path / "b")
    classes(tmp_path / "c" / "seg_train" / "seg_train")
    source = folder(tmp_path / "c")
    assert source.classes == ("cat", "dog", "owl")
    assert any("taken in its place" in remark for remark in source.remarks)


def test_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    fill(tmp_path / "cat" / "batch1" / "monday")
    fill(tmp_path / "cat")
    fill(tmp_path / "dog")
    assert np.bincount(folder(tmp_path).splits["train"][1]).tolist() == [8, 4]


@pytest.mark.parametrize("junk", [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails", "#recycle"])
def test_folders_of_the_system_are_skipped_and_counted(tmp_path: Path, junk: str) -> None:
    classes(tmp_path, ("cat", "dog"))
    fill(tmp_path / "cat" / junk)
    fill(tmp_path / "cat" / "batch" / junk)
    fill(tmp_path / junk)
    source = folder(tmp_path)
    assert counts(source) == {"train": 8}
    assert f"hidden and system files or folders skipped: 3 ({junk})" in source.remarks


def test_links_are_followed_and_dangling_ones_counted(tmp_path: Path) -> None:
    store = classes(tmp_path / "store")
    root = tmp_path / "d"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(store / "cat")
    (root / "dog" / "batch").symlink_to(store / "dog")
    (root / "dog" / "one.png").symlink_to(store / "owl" / "0.png")
    (root / "dog" / "again").symlink_to(root)
    for i in range(3):
        (root / "dog" / f"gone{i}.png").symlink_to(tmp_path / "nowhere.png")
    source = folder(root)
    assert np.bincount(source.splits["train"][1], minlength=2)[0] == 4
    assert any("3 files left out: links to what is not there" in remark for remark in source.remarks)
    assert any("links back" in remark for remark in source.remarks)


def test_everything_left_out_is_counted_with_its_reason(tmp_path: Path) -> None:
    classes(tmp_path, ("cat", "dog"))
    picture(1).save(tmp_path / "loose.png")
    for i in range(2):
        picture(i).save(tmp_path / "cat" / f"{i}.ppm")
    (tmp_path / "dog" / "notes.txt").write_text("x")
    (tmp_path / "dog" / "Thumbs.db").write_text("x")
    (tmp_path / "dog" / "bare").write_text("x")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    told = folder(tmp_path).remarks
    for words in (
        "1 file left out: beside the class folders, not in one (loose.png)",
        "2 files left out: .ppm is a picture format that is not read, save as PNG (cat/0.ppm)",
        "1 file left out: .txt is no picture format (dog/notes.txt)",
        "hidden and system files or folders skipped: 1 (Thumbs.db)",
        "1 file left out: no ending like .jpg (dog/bare)",
        "1 file left out: not a regular file (dog/pipe.png)",
    ):
        assert words in told, told


def test_jfif_is_read(tmp_path: Path) -> None:
    classes(tmp_path, ("cat", "dog"))
    picture(5).save(tmp_path / "cat" / "phone.jfif", format="JPEG")
    data = load(DataConfig(data=str(tmp_path)))
    assert not data.bad
    assert len(data.train) + len(data.val) + len(data.test) == 9


def test_pictures_that_cannot_be_read_are_counted_by_kind(tmp_path: Path) -> None:
    classes(tmp_path, ("cat", "dog"))
    for i in range(3):
        (tmp_path / "cat" / f"empty{i}.png").touch()
    whole = (tmp_path / "dog" / "0.png").read_bytes()
    (tmp_path / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    data = load(DataConfig(data=str(tmp_path)))
    assert len(data.bad) == 4
    assert any("left out as empty: 3 files" in remark and "empty0.png" in remark for remark in data.remarks)
    assert any("left out as truncated: 1 file" in remark and "cut.png" in remark for remark in data.remarks)


def test_a_picture_too_large_for_the_guess_of_the_size_is_named(tmp_path: Path) -> None:
    """The header alone promises 240 million pixels; Pillow raises while it only looks."""
    classes(tmp_path, ("cat", "dog"))
    picture(1, 8).save(tmp_path / "cat" / "scan.png")
    blob = bytearray((tmp_path / "cat" / "scan.png").read_bytes())
    blob[16:24] = (20_000).to_bytes(4, "big") + (12_000).to_bytes(4, "big")
    blob[29:33] = zlib.crc32(bytes(blob[12:29])).to_bytes(4, "big")
    (tmp_path / "cat" / "scan.png").write_bytes(bytes(blob))
    data = load(DataConfig(data=str(tmp_path)))
    assert len(data.bad) == 1 and "scan.png" in data.bad[0]


def test_names_that_look_alike(tmp_path: Path) -> None:
    classes(tmp_path / "case", ("Cat", "cat", "dog"))
    assert "'Cat' and 'cat', which differ only in case" in refusal(tmp_path / "case")
    classes(tmp_path / "blank", ("cat", "cat ", "dog"))
    assert "twice the class 'cat'" in refusal(tmp_path / "blank")
    decomposed = unicodedata.normalize("NFD", "café")
    classes(tmp_path / "forms", ("café", decomposed, "dog"))
    assert "twice the class 'café'" in refusal(tmp_path / "forms")
    classes(tmp_path / "apart" / "train", ("café", "Dog"))
    classes(tmp_path / "apart" / "test", (decomposed, "dog"))
    source = folder(tmp_path / "apart")
    assert source.classes == ("Dog", "café") and counts(source) == {"train": 8, "test": 8}
    assert any("dog/ is taken as the class 'Dog'" in remark for remark in source.remarks)


@pytest.mark.parametrize("name", ["two\nlines", b"caf\xe9", "bell\a"])
def test_names_that_no_file_could_hold_are_refused(tmp_path: Path, name: str | bytes) -> None:
    classes(tmp_path, ("cat", "dog"))
    fill(tmp_path / os.fsdecode(name))
    assert "cannot be printed; rename it" in refusal(tmp_path)


def test_classes_are_told_before_anything_is_decoded(tmp_path: Path) -> None:
    classes(tmp_path / "Train", ("cat", "dog"), count=12)
    classes(tmp_path / "Test", ("cat",), count=3, first=70)
    (tmp_path / "Train" / "dog" / "0.png").unlink()
    events: list[str] = []
    load(DataConfig(data=str(tmp_path)), lambda done, total: events.append("decoded"), announce=events.append)
    splits = "Test/ 3 pictures, Train/ 23 pictures"
    assert events[0] == f"Reading {tmp_path}: {splits}; 2 classes: cat (12), dog (11)"
    assert events[1] == "decoded"


def test_many_classes_are_told_by_the_first_and_the_count(tmp_path: Path) -> None:
    classes(tmp_path, [f"c{i:02d}" for i in range(25)], count=2)
    fill(tmp_path / "c24", 7)
    events: list[str] = []
    load(DataConfig(data=str(tmp_path)), announce=events.append)
    assert "c19 (2) and 5 more (from 2 to 7 pictures each)" in events[0]
