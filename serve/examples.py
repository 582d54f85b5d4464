"""A few pictures of the run's own test split, for a visitor who has none at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lfdeploy.artifact import Artifact, run_of
from lfdeploy.errors import LfdeployError
from lfdeploy.recorded_splits import SPLITS

COUNT = 5
#: Pictures of a folder, of which each is read to find it again.
MOST = 5000


@dataclass(frozen=True)
class Example:
    """A picture's file and its true class."""

    path: Path
    label: str


def examples_of(artifact: Artifact, runs: str | Path = "runs") -> list[tuple[Image.Image, str]]:
    """The first test picture of each of some classes, with the class's name; none where the data are gone
    or slow to read.
    """
    try:
        run = run_of(artifact, runs=str(runs))
        source = run.data_config().data
        named = Path(source)
        few = named.is_dir() and sum(run.read("summary.json")["data"][s] for s in SPLITS) <= MOST
        if source != "digits" and not (source.endswith(".npz") and named.is_file()) and not few:
            return []  # a named data set would perhaps be downloaded
        test = run.data().test
    except (LfdeployError, OSError):
        return []
    first = [int(np.flatnonzero(test.labels == label)[0]) for label in np.unique(test.labels)]
    chosen = [first[i] for i in np.unique(np.linspace(0, len(first) - 1, COUNT).astype(int))]
    pictures = [Image.fromarray(np.asarray(test.images[np.asarray([index])][0])) for index in chosen]
    labels = [str(run.spec["classes"][int(test.labels[index])]) for index in chosen]
    return list(zip(pictures, labels, strict=True))


def write_examples(found: Sequence[tuple[Image.Image, str]], folder: Path) -> list[Example]:
    """The pictures as PNG files in the folder."""
    paths = [folder / f"example-{number}.png" for number in range(1, len(found) + 1)]
    for path, (picture, _) in zip(paths, found, strict=True):
        picture.save(path)
    return [Example(path, label) for path, (_, label) in zip(paths, found, strict=True)]
