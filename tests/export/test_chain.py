"""The chain of custody names the step that moved the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from export.parity.bounds import TWIN
from export.prove import verify
from lfdeploy.artifact import read, sealed
from lfdeploy.models.deploy import Classifier
from lfdeploy.run import Run, sha256, write_json

STEPS = ["P0", "P1", "P2", "P3", "P4", "P5"]


def links(path: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((path / "manifest.json").read_text())["parity"]["chain"]
    assert [link["step"] for link in found] == STEPS
    return {link["step"]: link for link in found}


def test_fp32_moves_nowhere(tiny_run: Run) -> None:
    path = tiny_run.artifacts / "fused-onnx-fp32"
    found = links(path)
    assert "bit for bit" in found["P0"]["said"]
    assert all(found[step]["difference"] < 5e-6 and found[step]["flips"] == 0 for step in ("P1", "P3"))
    assert found["P2"]["said"] == "nothing to cast"
    assert found["P5"]["said"].split()[1].rstrip(",") == sha256(path / "model.onnx")[:16]
    assert "Where the answers moved" in (path / "report.html").read_text()


def test_fp16_moves_in_the_cast_and_int8_in_the_quantiser(half_artifact: Path, int8_artifact: Path) -> None:
    half, whole = links(half_artifact), links(int8_artifact)
    assert half["P1"]["difference"] < 5e-6 < half["P2"]["difference"] < 2e-2
    assert half["P3"]["difference"] < TWIN
    assert whole["P1"]["difference"] < 5e-6
    assert whole["P3"]["difference"] > 1e-4
    assert "fp32 graph" in whole["P2"]["said"]


def test_a_broken_file_is_seen_at_its_step(tiny_run: Run, copied: Callable[[str], Path]) -> None:
    path = copied("peer0-onnx-fp32")
    model = onnx.load(path / "model.onnx")
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[1] == 16)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    (path / "model.onnx").write_bytes(model.SerializeToString())
    told = {"sha256": sha256(path / "model.onnx"), "bytes": (path / "model.onnx").stat().st_size}
    write_json(path / "manifest.json", sealed(read(path).manifest | told))
    report = verify(read(path), run=str(tiny_run.path))
    assert report.verdict == "fail"
    found = {link["step"]: link for link in report.chain}
    assert found["P1"]["difference"] < 5e-6 < 1e-2 < found["P3"]["difference"]


def test_a_broken_module_is_seen_at_its_step(
    tiny_run: Run, copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module, not the file, has another shift: the first step away from it shows that."""
    real = Run.classifier

    def wrong(self: Run, target: str) -> Classifier:
        classifier = real(self, target)
        classifier.shift = classifier.shift + 0.1
        return classifier

    monkeypatch.setattr(Run, "classifier", wrong)
    report = verify(read(copied("peer0-onnx-fp32")), run=str(tiny_run.path))
    assert report.verdict == "fail"
    assert report.reason.startswith("stage reference")


@pytest.mark.slow
def test_an_engine_that_cannot_run_here_says_so(tiny_run: Run, tmp_path: Path) -> None:
    from export import export
    from lfdeploy.config import ExportConfig

    pytest.importorskip("tensorrt_rtx")
    made = export(ExportConfig(peer=0, format="trt", out=str(tmp_path / "engine")), tiny_run)[0]
    found = links(made.path)
    assert found["P3"]["difference"] < 5e-6
    if made.verdict == "unverified":
        assert "not run here" in found["P4"]["said"]
