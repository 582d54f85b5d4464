"""Data that are easily misread: what lies beside the pictures, names that look alike, reasons to tell."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from made_pictures import classes, fill, picture
from PIL import Image

from lfdeploy.config import DataConfig
from lfdeploy.data import Data, load
from lfdeploy.errors import LfdeployError
from lfdeploy.label_table import label_table
from lfdeploy.labels import check_labels
from training.engine import cores


def loaded(root: Path, **settings: object) -> Data:
    return load(DataConfig(data=str(root), **settings))  # type: ignore[arg-type]


def refusal(data: Path | str, **settings: object) -> str:
    with pytest.raises(LfdeployError) as caught:
        load(DataConfig(data=str(data), **settings))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run_of(place: Path) -> None:
    """A folder that looks like a run: its first files, and pictures."""
    place.mkdir(parents=True)
    (place / "spec.json").write_text('{"data_fingerprint": "x"}')
    picture(1).save(place / "curves.png")


@pytest.mark.parametrize("splits", [True, False])
def test_runs_and_artifacts_beside_the_pictures_are_no_class(tmp_path: Path, splits: bool) -> None:
    """The user's folder of pictures is also the one from which lfdeploy is run."""
    for split in ("train", "test") if splits else (".",):
        classes(tmp_path / split, count=12, first=len(split))
    before = loaded(tmp_path)
    run_of(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "latest").symlink_to("one")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "manifest.json").write_text('{"manifest_sha256": "x"}')
    found = loaded(tmp_path)
    assert found.fingerprint == before.fingerprint
    assert "2 folders left out: runs or artifacts of lfdeploy, not pictures (runs)" in found.remarks


def test_an_artifact_in_a_class_folder_takes_nothing_else_with_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        classes(tmp_path / split, count=12, first=len(split))
    before = loaded(tmp_path)
    for place in (tmp_path / "train" / "cat" / "model", tmp_path / "test" / "model"):
        place.mkdir()
        (place / "manifest.json").write_text('{"manifest_sha256": "x"}')
        picture(7).save(place / "report.png")
    assert loaded(tmp_path).fingerprint == before.fingerprint


def test_an_empty_name_is_not_the_folder_we_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an unset variable of the shell gives it."""
    monkeypatch.chdir(classes(tmp_path))
    assert refusal("") == refusal("  ")
    assert refusal("").startswith("--data is empty.")


def test_folds_are_named_where_they_are_learnt_as_classes(tmp_path: Path) -> None:
    for first, fold in enumerate(("fold0", "fold1")):
        classes(tmp_path / fold, ("cat", "dog"), count=5, first=50 * first)
    (remark,) = (line for line in loaded(tmp_path).remarks if "the same folders" in line)
    assert "(fold0/, fold1/)" in remark and "(cat/, dog/)" in remark
    assert "--data" in remark


def test_folders_in_class_folders_are_named(tmp_path: Path) -> None:
    classes(tmp_path / "animal", ("cat", "dog"))
    classes(tmp_path, ("car",))
    assert (
        "1 class folder of train holds folders; pictures in animal/cat/ are of class 'animal'"
        in loaded(tmp_path).remarks
    )


def test_a_class_without_pictures_says_why(tmp_path: Path) -> None:
    classes(tmp_path, ("cat",))
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (tmp_path / "dog").mkdir()
    for number in range(3):
        (tmp_path / "dog" / f"{number}.jpg").write_bytes(heic)
    assert "'dog'" in refusal(tmp_path) and "HEIC" in refusal(tmp_path)


def test_no_test_picture_says_why(tmp_path: Path) -> None:
    both = classes(tmp_path / "both", ("cat",), count=10)
    shutil.copytree(both / "cat", both / "pet")
    assert re.search(r"same pixels as one of another class \(cat: \S+ and pet: ", refusal(both))
    assert "--test-fraction" not in refusal(both, test_fraction=0.5)
    for name, grey in (("black", 0), ("white", 255)):
        (tmp_path / "flat" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (20, 20), (grey,) * 3).save(tmp_path / "flat" / name / f"{number}.png")
    assert "all pictures of a class have the same pixels" in refusal(tmp_path / "flat")
    broken = tmp_path / "broken"
    classes(broken / "train", ("cat", "dog"))
    for name in ("cat", "dog"):
        (broken / "test" / name).mkdir(parents=True)
        (broken / "test" / name / "0.jpg").touch()
    assert "no picture of the test split can be read" in refusal(broken) and "2 files" in refusal(broken)


def test_too_few_pictures_to_validate_are_named(tmp_path: Path) -> None:
    data = loaded(classes(tmp_path, count=5))
    assert len(data.val) == 0
    assert any("--val-fraction 0.1 of each class is less than one picture" in line for line in data.remarks)
    assert not any("--val-fraction" in line for line in loaded(tmp_path, val_fraction=0.0).remarks)


def test_what_is_odd_about_pictures_is_counted(tmp_path: Path) -> None:
    """As `predict` says it of one."""
    classes(tmp_path, ("cat", "dog"), count=8)
    for number in range(3):
        Image.fromarray(
            np.random.default_rng(number).integers(0, 255, (20, 190 + number, 3), dtype=np.uint8)
        ).save(tmp_path / "cat" / f"wide {number}.png")
    frames = [picture(100 + number) for number in range(2)]
    frames[0].save(tmp_path / "dog" / "moving.gif", save_all=True, append_images=frames[1:])
    told = loaded(tmp_path, image_size=20).remarks
    assert "3 pictures: extreme shape (190x20): only the centred square is seen (cat/wide 0.png)" in told
    assert "1 picture: first of 2 frames used (dog/moving.gif)" in told


def test_pictures_of_an_array_that_are_cropped_are_named(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_x=pixels, train_y=np.arange(40) % 2, classes=np.array(["a", "b"]))
    assert "pictures of 48x32: only the centred square of each is seen" in loaded(tmp_path / "a.npz").remarks


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("dog", "dog\u200b", "look the same"),
        ("hot dog", "hot\u00a0dog", "look the same"),
        ("1", "1.0", "same number"),
        ("01", "1", "same number"),
        ("Cat", "cat", "only in case"),
    ],
)
def test_names_that_a_person_takes_for_one(one: str, other: str, words: str) -> None:
    with pytest.raises(LfdeployError, match=words) as caught:
        check_labels([one, other], "here")
    assert "\u200b" not in str(caught.value) and "\u00a0" not in str(caught.value)


def test_names_that_differ_are_kept_apart() -> None:
    check_labels(["v1", "v1.0", "1a", "1", "2", "-1", "1 2", "12", "a b", "ab", "1e3", "1000"], "here")
    check_labels(
        ["1000001", "1000002", "4006381333931", "4006381333948", "3.1", "3.10", "0.1", "1.5"], "here"
    )
    tags = "\U0001f3f4\U000e0067\U000e0062"
    check_labels([tags + "\U000e0065\U000e006e\U000e0067", tags + "\U000e0073\U000e0063\U000e0074"], "here")


def test_columns_beside_ours(tmp_path: Path) -> None:
    classes(tmp_path, ("cat", "dog"), count=6)
    names = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(6)]

    def table(header: str, more: list[str]) -> Path:
        lines = [f'{name}, "{name.split("/")[0]}",{end}' for name, end in zip(names, more, strict=True)]
        (tmp_path / "t.csv").write_text("\n".join([header, *lines]))
        return tmp_path / "t.csv"

    who = table("path, label,who", ["me", "you"] * 6)
    assert label_table(who).remarks == ("columns of t.csv that are not looked at: who",)
    assert label_table(who).classes == ("cat", "dog")  # quotes after a blank are quotes
    table("path,label,stage", ["dev", "eval"] * 6)
    assert label_table(tmp_path / "t.csv", judged=True).remarks  # nothing is split there
    table("path,label,fold", ["test1", "test2"] * 6)
    assert label_table(tmp_path / "t.csv").remarks
    (tmp_path / "t.csv").write_text('path,label\ncat/0.png, "cat" kind\ndog/0.png, dog\n')
    assert label_table(tmp_path / "t.csv").classes == ('"cat" kind', "dog")
    assert "the column 'set' has test, train. If it is the split, call it split" in refusal(
        table("path,label,set", ["train", "test"] * 6)
    )


def test_archives(tmp_path: Path) -> None:
    fill(tmp_path / "in" / "cat")
    (tmp_path / "out").mkdir()
    with zipfile.ZipFile(tmp_path / "out" / "a.zip", "w") as archive:
        archive.write(tmp_path / "in" / "cat" / "0.png", "cat/0.png")
    assert refusal(tmp_path / "out" / "a.zip").endswith("Unpack it, and name the folder that comes out.")
    assert "a.zip. Unpack it there first." in refusal(tmp_path / "out")


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There is no folder 'photoz' here either." in refusal("photoz")
    assert refusal("photos.zip") == "--data photos.zip: no such folder, .npz or .csv file."


def test_more_threads_than_cores_are_named(tmp_path: Path, lf: Callable[..., Result]) -> None:
    photos = classes(tmp_path / "photos", count=8)
    words = ["train", "--data", photos, "--method", "independent", "--peers", 1, "--arch", "resnet8"]
    words += ["--epochs", 1, "--runs", tmp_path / "runs"]
    most = cores() + 1
    few, many = lf(*words, "--threads", 1, "--name", "a"), lf(*words, "--threads", most, "--name", "b")
    assert f"--threads {most} is more than the" in many.stderr and "is more than" not in few.stderr
