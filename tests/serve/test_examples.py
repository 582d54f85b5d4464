"""Example pictures on the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lfdeploy.artifact import Artifact, read
from lfdeploy.images import prepare
from lfdeploy.run import Run
from serve.examples import COUNT, write_examples


def test_examples_are_pictures_of_the_test_split(
    artifacts: tuple[Artifact, Artifact], tiny_run: Run, tmp_path: Path
) -> None:
    test = tiny_run.data().test
    known = {test.images[[i]][0].tobytes() for i in range(len(test))}
    found = write_examples(artifacts[0], tmp_path)
    assert len(found) == COUNT
    assert all(prepare(path, 16).tobytes() in known for path in found)


def test_no_examples_where_the_data_are_gone_or_a_folder(tiny_run: Run, tmp_path: Path) -> None:
    for data in ("gone.npz", str(tmp_path), "cifar10"):
        run = tmp_path / data.strip("/").replace("/", "-") / "run"
        shutil.copytree(tiny_run.path, run, ignore=shutil.ignore_patterns("checkpoint"))
        (run / "config.json").write_text(json.dumps(tiny_run.read("config.json") | {"data": data}))
        assert write_examples(read(run / "artifacts/fused-onnx-fp32"), tmp_path) == []
    alone = tmp_path / "alone/a/b"
    shutil.copytree(tiny_run.artifacts / "fused-onnx-fp32", alone)
    assert write_examples(read(alone), tmp_path, tmp_path / "none") == []
