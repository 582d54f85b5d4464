"""Example pictures on the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lfdeploy.artifact import Artifact, read
from lfdeploy.config import TrainConfig
from lfdeploy.images import prepare
from lfdeploy.run import Run, sha256
from serve import examples
from serve.examples import COUNT, examples_of, write_examples


def test_examples_are_pictures_of_the_test_split(
    artifacts: tuple[Artifact, Artifact], tiny_run: Run, tmp_path: Path
) -> None:
    test = tiny_run.data().test
    found = write_examples(examples_of(artifacts[0]), tmp_path)
    assert len(found) == COUNT
    classes = tiny_run.spec["classes"]
    known = {test.images[[i]][0].tobytes(): classes[test.labels[i]] for i in range(len(test))}
    assert [known[prepare(example.path, 16).tobytes()] for example in found] == [e.label for e in found]


def test_a_folder_s_pictures_are_shown_while_they_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import train

    draw = np.random.default_rng(0)
    for number in range(60):
        place = tmp_path / "pictures" / ("dark" if number % 2 else "light")
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 60, (20, 20, 3), np.uint8) + (0 if number % 2 else 180)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    config = TrainConfig(data=str(tmp_path / "pictures"), arch="resnet8", epochs=1, batch_size=8, peers=1)
    run = train(config, "few", tmp_path / "runs")
    artifact = Artifact(run.artifacts / "x", {"run": {"name": "few", "weights_sha256": sha256(run.weights)}})
    found = write_examples(examples_of(artifact, tmp_path / "runs"), tmp_path)
    assert [(e.label, int(np.asarray(Image.open(e.path)).mean()) > 120) for e in found] == [
        ("dark", False),
        ("light", True),
    ]
    monkeypatch.setattr(examples, "MOST", 59)
    assert examples_of(artifact, tmp_path / "runs") == []


def test_no_examples_where_the_data_are_gone(tiny_run: Run, tmp_path: Path) -> None:
    for data in ("gone.npz", str(tmp_path / "gone"), "cifar10"):
        run = tmp_path / data.strip("/").replace("/", "-") / "run"
        shutil.copytree(tiny_run.path, run, ignore=shutil.ignore_patterns("checkpoint"))
        (run / "config.json").write_text(json.dumps(tiny_run.read("config.json") | {"data": data}))
        assert examples_of(read(run / "artifacts/fused-onnx-fp32")) == []
    alone = tmp_path / "alone/a/b"
    shutil.copytree(tiny_run.artifacts / "fused-onnx-fp32", alone)
    assert examples_of(read(alone), tmp_path / "none") == []
