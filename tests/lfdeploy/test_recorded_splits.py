"""A run's pictures are the run's: whatever happens to the folder, splits stay, and what happened is said."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_pictures import classes, fill, picture
from PIL import Image

from lfdeploy import data as data_module
from lfdeploy import recorded_splits
from lfdeploy.config import DataConfig
from lfdeploy.data import Data, load
from lfdeploy.errors import LfdeployError
from lfdeploy.images import prepare
from lfdeploy.run import Run, write_json
from lfdeploy.run_data import resumed
from lfdeploy.runs import new_run
from lfdeploy.split_arrays import Files


def begin(root: Path, data: Path, keep: bool = True, **settings: Any) -> tuple[Run, Data]:
    """A run as training begins it, without the training."""
    config = DataConfig(data=str(data), **settings)
    pictures = load(config)
    spec = {
        "classes": list(pictures.classes),
        "image_size": pictures.image_size,
        "data_fingerprint": pictures.fingerprint,
    }
    documents: dict[str, object] = {"config.json": asdict(config), "spec.json": spec}
    if keep:
        documents[recorded_splits.FILE] = recorded_splits.to_bytes(pictures)
    run, lock = new_run(root / "runs", "r", "r", documents)
    lock.release()
    return run, pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of twenty pictures, in one level of folders."""
    return classes(tmp_path / "d", count=20)


def remarks(data: Data) -> str:
    return "\n".join(data.remarks)


def file_of(folder: Path, data: Data, split: str, number: int = 0) -> Path:
    return folder / data.split(split).paths[number]


def assert_apart(now: Data, then: Data) -> None:
    """Nothing in val or test that was trained on, nothing in any split that was not there."""
    for name in ("train", "val", "test"):
        assert set(now.split(name).digests.tolist()) <= set(then.split(name).digests.tolist())


def test_nothing_changed(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    now = run.data()
    assert now.fingerprint == then.fingerprint
    assert now.remarks == ()
    for name in ("train", "val", "test"):
        assert np.array_equal(np.asarray(now.split(name).images[:100]), then.split(name).images)
        assert np.array_equal(now.split(name).labels, then.split(name).labels)


def test_only_the_split_that_is_needed_is_decoded(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, then = begin(tmp_path, folder)
    decoded: list[str] = []
    monkeypatch.setattr("lfdeploy.split_arrays.prepare", lambda *args: decoded.append("") or prepare(*args))
    now = run.data()
    assert len(decoded) == len(then.test) == 12
    assert isinstance(now.train.images, Files) and isinstance(now.val.images, Files)
    run.data(need=("val",))
    assert len(decoded) == len(then.test) + len(then.val)


def test_pictures_that_came_are_named_and_never_judged(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    for name in ("cat", "dog", "owl"):
        for i in range(3):
            picture(900 + i + ord(name[0])).save(folder / name / f"new{i}.png")
    now = run.data()
    assert now.fingerprint == then.fingerprint
    assert "9 pictures came to" in remarks(now) and "cat/new0.png" in remarks(now)


def test_copies_of_trained_pictures_are_never_judged(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    for i in range(4):
        shutil.copy(file_of(folder, then, "train", i), folder / "cat" / f"copy{i}.png")
    now = run.data()
    assert now.fingerprint == then.fingerprint
    assert "4 pictures came to" in remarks(now)


def test_pictures_that_went_are_named(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    gone = file_of(folder, then, "test")
    gone.unlink()
    now = run.data()
    assert_apart(now, then)
    assert (len(now.test), len(now.train)) == (11, len(then.train))
    assert f"1 picture of run r gone from {folder} ({then.test.paths[0]})" in remarks(now)
    assert "11 of 12 test" in remarks(now)


def test_a_picture_with_other_bytes_is_named_and_not_used(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    picture(12345).save(file_of(folder, then, "test"))
    now = run.data()
    assert_apart(now, then)
    assert len(now.test) == 11
    assert f"changed since run r began; not used ({then.test.paths[0]})" in remarks(now)
    assert "came to" not in remarks(now) and "gone" not in remarks(now)


def test_a_picture_saved_again_without_loss_is_the_same(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    file = file_of(folder, then, "test")
    Image.open(file).save(file.with_suffix(".bmp"))
    file.unlink()
    now = run.data()
    assert now.fingerprint == then.fingerprint and now.remarks == ()


def test_a_picture_that_moved_keeps_its_split(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    file = file_of(folder, then, "test")
    (file.parent / "batch").mkdir()
    file.rename(file.parent / "batch" / "other name.png")
    now = run.data()
    assert now.fingerprint == then.fingerprint and now.remarks == ()


def test_files_that_changed_places_keep_their_splits(tmp_path: Path, folder: Path) -> None:
    """The names of a trained picture and of a test picture are exchanged: the bytes decide."""
    run, then = begin(tmp_path, folder)
    one, other = file_of(folder, then, "test"), file_of(folder, then, "train")
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)
    now = run.data()
    assert_apart(now, then)
    assert len(now.test) == len(then.test)


def test_a_picture_in_another_class_now_keeps_its_label(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    file = next(folder / path for path in then.test.paths if path.startswith("cat/"))
    file.rename(folder / "dog" / "was a cat.png")
    now = run.data()
    assert now.fingerprint == then.fingerprint
    assert "under another class now" in remarks(now) and "dog/was a cat.png: was cat" in remarks(now)


def test_a_folder_of_splits_sorted_anew_afterwards(tmp_path: Path) -> None:
    """Trained pictures moved into test/ are still trained on."""
    root = tmp_path / "d"
    classes(root / "train", count=10)
    classes(root / "test", count=5, first=50)
    run, then = begin(tmp_path, root)
    for i in range(3):
        (root / "train" / "cat" / f"{i}.png").rename(root / "test" / "cat" / f"moved{i}.png")
    now = run.data()
    assert now.fingerprint == then.fingerprint


def test_a_class_that_came_is_said_and_one_that_went_is_an_error(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    fill(folder / "fox")
    now = run.data()
    assert now.fingerprint == then.fingerprint
    assert "1 class that run r does not know (fox)" in remarks(now)
    shutil.rmtree(folder / "owl")
    with pytest.raises(LfdeployError, match="no longer the class 'owl'"):
        run.data()


def test_files_that_could_not_be_read_do_not_come_anew(tmp_path: Path, folder: Path) -> None:
    (folder / "cat" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    run, then = begin(tmp_path, folder)
    assert len(then.bad) == 1
    now = run.data()
    assert now.fingerprint == then.fingerprint and now.remarks == ()
    assert len(now.bad) == 1 and "cut.png" in now.bad[0]


def test_a_folder_that_moved(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    other = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(LfdeployError, match=r"no longer at .* with --data"):
        run.data()
    now = run.data(str(other))
    assert now.fingerprint == then.fingerprint
    assert "holds the pictures of run r" in remarks(now) and now.whose is None


def test_an_npz_that_grew(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8), np.arange(40) % 2
    names = np.array(["cat", "dog"])
    np.savez(tmp_path / "d.npz", train_x=x, train_y=y, classes=names)
    run, then = begin(tmp_path, tmp_path / "d.npz")
    more = random.integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "d.npz",
        train_x=np.concatenate([more, x]),
        train_y=np.concatenate([y[:10], y]),
        classes=names,
    )
    now = run.data()
    assert now.fingerprint == then.fingerprint
    assert "10 pictures came to" in remarks(now) and "train[0]" in remarks(now)
    assert np.array_equal(now.test.images, then.test.images)


def test_pictures_on_disk(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, then = begin(tmp_path, folder)
    monkeypatch.setattr(data_module, "RESIDENT_BYTES", 0)
    now = run.data()
    assert isinstance(now.test.images, Files)
    assert now.fingerprint == then.fingerprint
    assert np.array_equal(now.test.images[2:5], then.test.images[2:5])
    file_of(folder, now, "test").write_bytes(file_of(folder, now, "test", 1).read_bytes())
    with pytest.raises(LfdeployError, match="does not decode to the pixels"):
        now.test.images[:1]


def test_other_pixels_from_the_same_bytes_are_said(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with another version of the decoder: the fingerprint is another, and every split is read again."""
    from lfdeploy import split_arrays

    run, then = begin(tmp_path, folder)
    whole = split_arrays.prepare
    monkeypatch.setattr(split_arrays, "prepare", lambda path, size, notes: whole(path, size, notes) ^ 1)
    now = run.data()
    assert "60 pictures decode to other pixels" in remarks(now)
    assert now.fingerprint != then.fingerprint
    assert len(now.test) == len(then.test) and not isinstance(now.train.images, Files)


def test_a_run_without_a_record_says_so(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder, keep=False)
    now = run.data()
    assert now.fingerprint == then.fingerprint
    assert len(now.remarks) == 1 and "has no record of its pictures" in now.remarks[0]
    fill(folder / "cat", 30)
    assert "some of test may have been trained on" in remarks(run.data())


def test_a_record_of_another_run_is_refused(tmp_path: Path, folder: Path) -> None:
    run, _ = begin(tmp_path, folder)
    (run.path / recorded_splits.FILE).write_bytes(
        recorded_splits.to_bytes(load(DataConfig(data=str(folder), seed=1)))
    )
    with pytest.raises(LfdeployError, match="not the record of this run"):
        run.data()
    (run.path / recorded_splits.FILE).write_bytes(b"PK")
    with pytest.raises(LfdeployError, match="is damaged"):
        run.data()


@pytest.mark.parametrize("what", ["came", "gone", "changed", "under another class"])
def test_resuming_refuses_and_names_pictures(tmp_path: Path, folder: Path, what: str) -> None:
    run, then = begin(tmp_path, folder)
    assert resumed(run, lambda done, total: None).fingerprint == then.fingerprint
    file = next(folder / path for path in then.train.paths if path.startswith("cat/"))
    if what == "came":
        picture(4).save(folder / "cat" / "new.png")
    elif what == "gone":
        file.unlink()
    elif what == "changed":
        picture(4).save(file)
    else:
        file.rename(folder / "dog" / "new.png")
    with pytest.raises(LfdeployError) as caught:
        resumed(run, lambda done, total: None)
    named = "new.png" if what in ("came", "under another class") else file.name
    assert f"1 {what} (" in str(caught.value) and named in str(caught.value)


# Other pictures than the run's


def test_all_of_a_folder_is_judged(tmp_path: Path, folder: Path) -> None:
    run, _ = begin(tmp_path, folder)
    fresh = classes(tmp_path / "fresh", count=20, first=500)
    (fresh / "cat" / "cut.png").write_text("broken")
    data = run.data(str(fresh))
    assert len(data.test) == 60 and data.whose == "fresh"
    assert data.trained_on is not None and not data.trained_on.any()
    assert f"all 60 pictures of {fresh} are judged; run r was trained on none of them" in remarks(data)
    assert len(data.bad) == 1 and "cut.png" in remarks(data)


def test_pictures_that_were_trained_on_are_counted(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    fresh = classes(tmp_path / "fresh", count=5, first=500)
    for i in range(4):
        path = then.train.paths[i]
        Image.open(folder / path).save((fresh / path).with_name(f"again{i}.bmp"))
    data = run.data(str(fresh))
    assert len(data.test) == 19
    assert data.trained_on is not None and data.trained_on.sum() == 4
    assert "run r was trained on 4 of them" in remarks(data)
    assert set(data.test.digests[data.trained_on].tolist()) <= set(then.train.digests.tolist())


def test_fewer_classes_in_another_order(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    random = np.random.default_rng(3)
    x, y = random.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8), np.array([0, 0, 0, 0, 1, 1])
    np.savez(tmp_path / "few.npz", train_x=x, train_y=y, classes=np.array(["owl", "cat"]))
    data = run.data(str(tmp_path / "few.npz"))
    assert data.classes == then.classes == ("cat", "dog", "owl")
    assert np.bincount(data.test.labels).tolist() == [2, 0, 4]
    one = fill(tmp_path / "one" / "dog", first=800).parent
    assert run.data(str(one)).test.labels.tolist() == [1] * 4


def test_a_class_that_the_run_has_not_is_one_line(tmp_path: Path, folder: Path) -> None:
    run, _ = begin(tmp_path, folder)
    other = classes(tmp_path / "other", ("cat", "fox"))
    with pytest.raises(LfdeployError) as caught:
        run.data(str(other))
    assert "the class 'fox', which run r has not (it has cat, dog, owl)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_asked_split_of_other_pictures(tmp_path: Path, folder: Path) -> None:
    run, _ = begin(tmp_path, folder)
    other = tmp_path / "other"
    classes(other / "Train", count=7, first=300)
    classes(other / "Valid", count=3, first=400)
    assert len(run.data(str(other), need=("val",), alone=True).val) == 9
    with pytest.raises(LfdeployError, match="has no test split; it has train and val"):
        run.data(str(other))
    classes(other / "Testing", count=2, first=600)
    assert len(run.data(str(other)).test) == 6


def test_calibration_keeps_the_run_s_own_pictures(tmp_path: Path, folder: Path) -> None:
    run, then = begin(tmp_path, folder)
    fresh = classes(tmp_path / "fresh", count=5, first=500)
    data = run.data(str(fresh))
    assert data.train.digest == then.train.digest and data.val.digest == then.val.digest
    shutil.rmtree(folder)
    data = run.data(str(fresh))
    assert (len(data.train), len(data.val), len(data.test)) == (0, 0, 15)


def test_a_finished_run_whose_record_went_says_so(tiny_run: Run, tmp_path: Path) -> None:
    """A run of an older lfdeploy never had one; this one had, so its pictures are not split anew as if it
    were old.
    """
    run = Run(
        Path(shutil.copytree(tiny_run.path, tmp_path / "it", ignore=shutil.ignore_patterns("artifacts")))
    )
    (run.path / "splits.npz").unlink()
    with pytest.raises(LfdeployError, match=r"splits\.npz is gone"):
        run.data()
    summary = run.read("summary.json")
    del summary["reference"]
    write_json(run.path / "summary.json", summary)
    assert run.record() is None
