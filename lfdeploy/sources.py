"""Where pictures come from: the data sets with a name, folders, npz files. Nothing is resized or split here."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.errors import LfdeployError, choose
from lfdeploy.images import SUFFIXES, Pixels

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """Pictures as found: per split an array uint8 (N, H, W, 3) or a list of files, and labels (N,)."""

    classes: tuple[str, ...]
    splits: dict[str, tuple[Pixels | list[Path], Labels]]  # "train", and "val", "test" where they exist
    image_size: int | None = None
    epochs: int = 60
    arch: str = "resnet20"
    flip: bool = True
    remarks: tuple[str, ...] = field(default=())


def digits(root: Path) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey; embedded, no network.

    Its file is read, not its package imported: that takes three seconds, in every process of a run on digits.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise LfdeployError("The digits come with scikit-learn, which is not installed. Run: pip install scikit-learn")
    with gzip.open(Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        rows = np.loadtxt(file, delimiter=",")
    grey = np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images, labels = np.repeat(grey[..., None], 3, axis=3), rows[:, -1].astype(np.int64)
    return Source(tuple("0123456789"), {"train": (images, labels)}, image_size=16, epochs=16, arch="resnet8", flip=False)


def _torchvision(name: str, epochs: int, flip: bool = True) -> Callable[[Path], Source]:
    def read(root: Path) -> Source:
        import torchvision.datasets

        kind: Any = getattr(torchvision.datasets, name)
        if name == "FashionMNIST":
            _fashion_from_debian(root)
        parts, classes = {}, ()
        for split, train in (("train", True), ("test", False)):
            try:
                found = kind(root, train=train, download=False)
            except RuntimeError:
                try:
                    found = kind(root, train=train, download=True)
                except Exception as error:  # URL errors of many kinds: all mean that the download failed
                    raise LfdeployError(
                        f"{name} is not in {root} and cannot be downloaded ({error}). "
                        f"Put torchvision's files there, or name their folder with --data-root."
                    ) from None
            images = np.asarray(found.data, dtype=np.uint8)
            if images.ndim == 3:
                images = np.repeat(images[..., None], 3, axis=3)
            parts[split] = (images, np.asarray(found.targets, dtype=np.int64))
            classes = tuple(found.classes)
        return Source(classes, dict(parts), image_size=parts["train"][0].shape[1], epochs=epochs, flip=flip)

    return read


def _fashion_from_debian(root: Path) -> None:
    """Unzip the files of Debian's package dataset-fashion-mnist where torchvision looks for them."""
    import gzip

    packed = sorted(Path("/usr/share/datasets/fashion-mnist").glob("*.gz"))
    raw = root / "FashionMNIST" / "raw"
    for file in packed:
        if not (raw / file.stem).exists():
            raw.mkdir(parents=True, exist_ok=True)
            partial = raw / f"{file.stem}.partial"
            partial.write_bytes(gzip.decompress(file.read_bytes()))
            partial.rename(raw / file.stem)


@dataclass(frozen=True)
class Named:
    """A data set with a name: what it is, and how to read it from a root folder."""

    about: str
    read: Callable[[Path], Source]


DATASETS: dict[str, Named] = {
    "digits": Named("1,797 handwritten digits, 8x8 grey, 10 classes; embedded", digits),
    "cifar10": Named("60,000 photos 32x32, 10 classes; through torchvision", _torchvision("CIFAR10", 200)),
    "cifar100": Named("60,000 photos 32x32, 100 classes; through torchvision", _torchvision("CIFAR100", 200)),
    "fashion-mnist": Named("70,000 garments 28x28 grey, 10 classes; torchvision", _torchvision("FashionMNIST", 30)),
}


def read(data: str, root: str | None) -> Source:
    """Find out what ``--data`` means and read it. A path wins only when it looks like one."""
    path = Path(data)
    if data in DATASETS:
        return DATASETS[data].read(Path(root or "data"))
    if path.is_dir():
        return folder(path)
    if path.suffix == ".npz":
        return npz(path)
    if "/" in data or path.exists():
        raise LfdeployError(f"--data {data}: no such folder or .npz file.")
    choose("data set", data, sorted(DATASETS))
    raise AssertionError("unreachable")


def npz(path: Path) -> Source:
    """An npz with train_x uint8 (N, H, W, 3), train_y, test_x, test_y, classes; val_x, val_y if wanted."""
    if not path.is_file():
        raise LfdeployError(f"--data {path}: no such file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zip and header errors of many kinds
        raise LfdeployError(f"{path} cannot be read as npz: {error}.") from None
    missing = [name for name in ("train_x", "train_y", "classes") if name not in arrays]
    if missing:
        raise LfdeployError(f"{path} lacks {', '.join(missing)}; it must hold train_x, train_y, test_x, test_y, classes.")
    classes = tuple(str(name) for name in arrays["classes"])
    splits: dict[str, tuple[Pixels | list[Path], Labels]] = {}
    for split in ("train", "val", "test"):
        if f"{split}_x" not in arrays:
            continue
        x, y = arrays[f"{split}_x"], arrays.get(f"{split}_y")
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3:
            raise LfdeployError(f"{path}: {split}_x is {x.dtype} {x.shape}; it must be uint8 (N, H, W, 3).")
        if y is None or y.shape != (len(x),):
            raise LfdeployError(f"{path}: {split}_y must have one label for each of the {len(x)} pictures.")
        if len(y) and not (y.min() >= 0 and y.max() < len(classes)):
            raise LfdeployError(f"{path}: {split}_y runs from {y.min()} to {y.max()}, but there are {len(classes)} classes.")
        splits[split] = (x, y.astype(np.int64))
    return Source(classes, splits)


def folder(path: Path) -> Source:
    """train/ val/ test/ of class folders (validation/, valid/ too), or one level of class folders."""
    found = {child.name: child for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")}
    names = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}
    parts = {split: found[n] for split, options in names.items() for n in options if n in found}
    if "train" not in parts:
        parts = {"train": path}
    classes = tuple(sorted(c.name for c in parts["train"].iterdir() if c.is_dir() and not c.name.startswith(".")))
    if not classes:
        raise LfdeployError(
            f"{path} has no class folders. Put each class's pictures in a folder of its own: {path}/cat/1.jpg, {path}/dog/2.jpg."
        )
    splits: dict[str, tuple[Pixels | list[Path], Labels]] = {}
    remarks = []
    for split, top in parts.items():
        extra = sorted(c.name for c in top.iterdir() if c.is_dir() and not c.name.startswith(".") and c.name not in classes)
        if extra:
            raise LfdeployError(f"{top} has the class '{extra[0]}', which {parts['train']} has not.")
        files: list[Path] = []
        labels: list[int] = []
        ignored = 0
        for label, name in enumerate(classes):
            for file in sorted((top / name).rglob("*")) if (top / name).is_dir() else []:
                if not file.is_file() or file.name.startswith("."):
                    continue
                if file.suffix.lower() not in SUFFIXES:
                    ignored += 1
                    continue
                files.append(file)
                labels.append(label)
        if ignored:
            remarks.append(f"{ignored} files in {top.name}/ are not pictures by name and were left out")
        splits[split] = (files, np.array(labels, dtype=np.int64))
    return Source(classes, splits, remarks=tuple(remarks))
