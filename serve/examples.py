"""A few pictures of the run's own test split, for a visitor who has none at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lfdeploy.artifact import Artifact, run_of
from lfdeploy.errors import LfdeployError

COUNT = 5


def write_examples(artifact: Artifact, folder: Path, runs: str | Path = "runs") -> list[Path]:
    """The first test picture of each of some classes as PNG files; none where the data are gone or slow
    to read.
    """
    try:
        run = run_of(artifact, runs=str(runs))
        source = run.data_config().data
        if source != "digits" and not (source.endswith(".npz") and Path(source).is_file()):
            return []  # a folder would be decoded whole, a named data set perhaps downloaded
        test = run.data().test
    except (LfdeployError, OSError):
        return []
    first = [int(np.flatnonzero(test.labels == label)[0]) for label in np.unique(test.labels)]
    chosen = [first[i] for i in np.unique(np.linspace(0, len(first) - 1, COUNT).astype(int))]
    paths = []
    for number, index in enumerate(chosen):
        paths.append(folder / f"example-{number + 1}.png")
        Image.fromarray(np.asarray(test.images[np.asarray([index])][0])).save(paths[-1])
    return paths
