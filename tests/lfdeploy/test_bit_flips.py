"""A thousand single bits of an artifact, each flipped for itself: nothing opens that is not as proven."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lfdeploy.artifact import read
from lfdeploy.errors import LfdeployError
from lfdeploy.predict import Predictor
from lfdeploy.run import Run

FLIPS = 500


@pytest.mark.parametrize("file", ["manifest.json", "model.onnx"])
def test_each_is_refused(file: str, tiny_run: Run, tmp_path: Path) -> None:
    """A flip that leaves the manifest's value as it was (1e-05 becomes 1E-05) is no change."""
    place = Path(shutil.copytree(tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "artifact"))
    blob = (place / file).read_bytes()
    before = read(place).manifest
    draw = np.random.default_rng(0)
    opened = []
    for bit in draw.choice(8 * len(blob), FLIPS, replace=False).tolist():
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        (place / file).write_bytes(changed)
        try:
            same = file == "manifest.json" and json.loads(changed) == before
        except ValueError:
            same = False
        try:
            Predictor.open(place, device="cpu")
            opened += [] if same else [bit]
        except LfdeployError:
            pass
    assert opened == []
    (place / file).write_bytes(blob)
    Predictor.open(place, device="cpu")
