"""From sources to splits: order, splitting, faults, refusals."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lfdeploy import data as data_module
from lfdeploy.config import DataConfig
from lfdeploy.data import Files, load
from lfdeploy.errors import LfdeployError, UsageError


def folder(
    root: Path, splits: tuple[str, ...] = ("train", "test"), classes: int = 3, count: int = 12, size: int = 20
) -> Path:
    random = np.random.default_rng(0)
    for split in splits:
        for c in range(classes):
            place = root / split / f"class {c}" if split else root / f"class {c}"
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(
                    place / f"{i}.png"
                )
    return root


def test_digits_are_those_of_scikit_learn() -> None:
    """Read past the package, in a process that imports it: the same pictures and labels."""
    code = (
        "import numpy as np; from sklearn.datasets import load_digits; from lfdeploy.sources import "
        "digits; from pathlib import Path\n"
        "found, ours = load_digits(), digits(Path()); images, labels = ours.splits['train']\n"
        "assert ours.classes == tuple(map(str, found.target_names)) and (labels == found.target).all()\n"
        "assert (images == np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]).all() and "
        "images.shape == (1797, 8, 8, 3)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits() -> None:
    data = load(DataConfig())
    assert (len(data.classes), data.image_size, len(data.train) + len(data.val) + len(data.test)) == (
        10,
        16,
        1797,
    )
    assert not data.flip


def test_tiny_arrays_are_brought_to_the_smallest_size_that_can_be_exported(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 2, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", train_x=pictures, train_y=np.arange(40) % 2, classes=np.array(["a", "b"]))
    assert load(DataConfig(data=str(tmp_path / "two.npz"))).image_size == 8


def test_folder_and_npz_give_the_same_arrays_in_the_same_order(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", size=32)
    arrays: dict[str, np.ndarray] = {"classes": np.array([f"class {c}" for c in range(3)])}
    for split in ("train", "test"):
        files = sorted((root / split).rglob("*.png"), key=lambda p: p.name)  # another order than the folder's
        arrays[f"{split}_x"] = np.stack([np.asarray(Image.open(f)) for f in files])
        arrays[f"{split}_y"] = np.array([int(f.parent.name[-1]) for f in files])
    np.savez(tmp_path / "same.npz", **arrays)
    a, b = load(DataConfig(data=str(root))), load(DataConfig(data=str(tmp_path / "same.npz")))
    for split in ("train", "val", "test"):
        assert np.array_equal(a.split(split).images, b.split(split).images)
        assert np.array_equal(a.split(split).labels, b.split(split).labels)
    assert a.fingerprint == b.fingerprint


def test_splits_are_stratified_disjoint_and_by_seed(tmp_path: Path) -> None:
    root = folder(tmp_path / "p", splits=("",), count=20)
    one, again, other = (load(DataConfig(data=str(root), seed=s)) for s in (0, 0, 1))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert [np.bincount(one.split(s).labels).tolist() for s in ("train", "val", "test")] == [
        [14] * 3,
        [2] * 3,
        [4] * 3,
    ]
    seen = [image.tobytes() for s in ("train", "val", "test") for image in one.split(s).images]
    assert len(set(seen)) == 60


def test_val_folder_and_val_fraction_zero(tmp_path: Path) -> None:
    root = folder(tmp_path / "p", splits=("train", "validation", "test"), count=4)
    assert len(load(DataConfig(data=str(root))).val) == 12
    root = folder(tmp_path / "q", count=4)
    data = load(DataConfig(data=str(root), val_fraction=0))
    assert (len(data.train), len(data.val)) == (12, 0)


def test_corrupt_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path / "p")
    (root / "train" / "class 1" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a jpeg")
    data = load(DataConfig(data=str(root)))
    assert len(data.bad) == 1
    assert "bad.jpg" in data.bad[0]
    with pytest.raises(LfdeployError, match=r"bad\.jpg"):
        load(DataConfig(data=str(root), strict=True))


def test_pictures_on_disk_are_the_same_as_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "p")
    resident = load(DataConfig(data=str(root)))
    monkeypatch.setattr(data_module, "RESIDENT_BYTES", 0)
    streamed = load(DataConfig(data=str(root)))
    assert isinstance(streamed.train.images, Files)
    assert streamed.fingerprint == resident.fingerprint
    index = np.array([3, 0, 7])
    assert np.array_equal(streamed.train.images[index], resident.train.images[index])
    assert np.array_equal(streamed.test.images[2:5], resident.test.images[2:5])


def test_duplicates_across_train_and_test_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "p")
    shutil.copy(root / "train" / "class 0" / "0.png", root / "test" / "class 0" / "again.png")
    assert any("1 picture is in both train and test" in r for r in load(DataConfig(data=str(root))).remarks)


def test_refusals_are_one_line_and_say_what_to_do(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", classes=1)
    empty = folder(tmp_path / "empty")
    (empty / "train" / "hollow").mkdir()
    stranger = folder(tmp_path / "stranger")
    (stranger / "test" / "unknown").mkdir()
    (tmp_path / "nothing").mkdir()
    np.savez(
        tmp_path / "odd.npz",
        train_x=np.zeros((2, 4, 4), np.uint8),
        train_y=np.zeros(2),
        classes=np.array(["a", "b"]),
    )
    np.savez(tmp_path / "less.npz", train_x=np.zeros((2, 4, 4, 3), np.uint8))
    (tmp_path / "broken.npz").write_bytes(b"PK but no zip")
    for given, words in {
        one: "needs at least two",
        empty: "class 'hollow' has no readable training picture",
        stranger: "'unknown'",
        tmp_path / "nothing": "no class folders",
        tmp_path / "odd.npz": "must be uint8 (N, H, W, 3)",
        tmp_path / "less.npz": "lacks train_y, classes",
        tmp_path / "broken.npz": "cannot be read as npz",
        tmp_path / "absent.npz": "no such file",
        tmp_path / "absent": "no such folder",
    }.items():
        with pytest.raises(LfdeployError) as caught:
            load(DataConfig(data=str(given)))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="Did you mean 'digits'"):
        load(DataConfig(data="digit"))


def test_fashion_mnist_from_unzipped_files(tmp_path: Path) -> None:
    """The files that Debian's package brings, in miniature, through torchvision's own reader."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + count.to_bytes(4, "big") + labels.tobytes()
        )
    data = load(DataConfig(data="fashion-mnist", data_root=str(tmp_path)))
    assert (len(data.classes), data.image_size, len(data.test)) == (10, 28, 20)


def test_absent_data_set_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(LfdeployError, match="--data-root"):
        load(DataConfig(data="cifar10", data_root=str(tmp_path)))
