"""Where pictures come from: data sets with a name, and what a path means. Nothing is resized or split."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.errors import LfdeployError, UsageError, choose
from lfdeploy.images import Pixels

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """Pictures as they lie there: per split an array uint8 (N, H, W, 3) or a list of files, and labels (N,).

    ``root``: paths are told from here. ``places``: the folder of each split, where splits have folders.
    """

    classes: tuple[str, ...]
    splits: dict[str, tuple[Pixels | list[Path], Labels]]  # "train", and "val", "test" where they exist
    image_size: int | None = None
    epochs: int = 60
    arch: str = "resnet20"
    flip: bool = True
    remarks: tuple[str, ...] = field(default=())
    root: Path | None = None
    places: Mapping[str, str] = field(default_factory=dict)


def digits(root: Path) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey; embedded, no network.

    Its file is read, not its package imported: that takes three seconds, in every process of a run on digits.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise LfdeployError(
            "The digits come with scikit-learn, which is not installed. Run: pip install scikit-learn"
        )
    with gzip.open(
        Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz", "rt"
    ) as file:
        rows = np.loadtxt(file, delimiter=",")
    grey = np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images, labels = np.repeat(grey[..., None], 3, axis=3), rows[:, -1].astype(np.int64)
    return Source(
        tuple("0123456789"), {"train": (images, labels)}, image_size=16, epochs=16, arch="resnet8", flip=False
    )


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
    "fashion-mnist": Named(
        "70,000 garments 28x28 grey, 10 classes; torchvision", _torchvision("FashionMNIST", 30)
    ),
}


def check_meaning(data: str) -> None:
    """Raise `UsageError` where a data set's name is also that of a folder here: it may mean either."""
    if data in DATASETS and Path(data).is_dir():
        raise UsageError(
            f"--data {data} is a data set with a name, and a folder here has that name too. For the folder: "
            f"./{data}. For the data set: start elsewhere, or give the folder another name."
        )


def as_folder(data: str) -> str:
    """What a path is told by, where a data set has its name."""
    return f"./{data}" if data in DATASETS and Path(data).is_dir() else data


def read(data: str, root: str | None, judged: bool = False) -> Source:
    """What ``--data`` names; a path wins only where it looks like one.

    ``judged``: nobody trains on the pictures.
    """
    from lfdeploy.arrays import npz
    from lfdeploy.folder_entries import ARCHIVES
    from lfdeploy.folders import folder
    from lfdeploy.label_table import label_table

    if not data.strip():
        raise UsageError(
            "--data is empty. Name a folder, an .npz or .csv file, or a data set: lfdeploy list datasets"
        )
    path = Path(data)
    if data in DATASETS:
        return DATASETS[data].read(Path(root or "data"))
    if path.is_dir():
        return folder(path, judged)
    if path.suffix.lower() == ".npz":
        return npz(path, judged)
    if path.suffix.lower() == ".csv":
        return label_table(path, judged)
    if path.suffix.lower() in ARCHIVES and path.exists():
        raise LfdeployError(f"--data {data} is an archive. Unpack it, and name the folder that comes out.")
    if path.exists():
        raise LfdeployError(f"--data {data} is neither a folder nor an .npz or .csv file.")
    if "/" in data or path.suffix:
        raise LfdeployError(f"--data {data}: no such folder, .npz or .csv file.")
    choose("data set", data, sorted(DATASETS), also=f"There is no folder '{data}' here either.")
    raise AssertionError("unreachable")
