"""What doctor says of artifacts on machines that differ in GPU, package and version: facts go in, a sentence comes out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lfdeploy.artifact import Artifact
from lfdeploy.cli import main
from lfdeploy.devices import Gpu
from lfdeploy.diagnosis import diagnose
from lfdeploy.run import Run

H100, ADA, BLACKWELL, NEXT = Gpu("H100", "9.0"), Gpu("L4", "8.9"), Gpu("RTX 5090", "12.0"), Gpu("Later", "12.1")
RTX = {"package": "tensorrt-rtx", "version": "1.7.1.116", "compute_capabilities": ["8.0", "8.6", "8.9", "12.0"]}
TRT = {"package": "tensorrt", "version": "10.14.1", "compute_capabilities": ["9.0"]}


def artifact(engine: dict[str, Any] | None, target: str = "peer0") -> Artifact:
    manifest = {"target": target, "precision": "fp16", "run": {"name": "mine"}, "format": "trt" if engine else "onnx"}
    return Artifact(Path("x"), manifest | ({"engine": engine} if engine else {}))


CASES = {
    "onnx on a CPU": (None, [], {"onnxruntime-gpu": "1.27"}, "runs here", "lfdeploy predict x"),
    "onnx without its runtime": (None, [], {}, "package missing", "pip install onnxruntime-gpu"),
    "engine without a GPU": (
        RTX,
        [],
        {"tensorrt-rtx": "1.7.1.116"},
        "no GPU",
        "lfdeploy export mine --peer 0 --format onnx",
    ),
    "engine without its package": (TRT, [H100], {}, "package missing", "pip install tensorrt==10.14.1"),
    "rtx on a listed GPU": (RTX, [ADA], {"tensorrt-rtx": "1.7.1.116"}, "runs here", "lfdeploy verify x"),
    "rtx on its last GPU": (RTX, [BLACKWELL], {"tensorrt-rtx": "1.7.1.116"}, "runs here", "lfdeploy verify x"),
    "rtx on a later GPU": (RTX, [NEXT], {"tensorrt-rtx": "1.7.1.116"}, "runs here", "lfdeploy verify x"),
    "rtx on a data-centre GPU": (
        RTX,
        [H100],
        {"tensorrt-rtx": "1.7.1.116"},
        "wrong GPU",
        "--precision fp16 --engine tensorrt",
    ),
    "tensorrt on its GPU": (TRT, [H100], {"tensorrt": "10.14.1"}, "runs here", "lfdeploy verify x"),
    "tensorrt on a later GPU": (TRT, [BLACKWELL], {"tensorrt": "10.14.1"}, "wrong GPU", "--engine tensorrt"),
    "tensorrt of another version": (
        TRT,
        [H100],
        {"tensorrt": "11.4.0"},
        "wrong version",
        "--precision fp16 --engine tensorrt",
    ),
    "rtx of another version": (RTX, [ADA], {"tensorrt-rtx": "1.8.0.1"}, "wrong version", "--engine tensorrt-rtx"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_machine_gets_its_answer(case: str) -> None:
    engine, gpus, installed, state, command = CASES[case]
    found = diagnose(artifact(engine), gpus, installed)
    assert (found.state, found.reason != "") == (state, True)
    assert command in found.command


@pytest.mark.parametrize("target", ["peer1", "fused", "ensemble"])
def test_commands_are_ones_the_program_takes(target: str) -> None:
    words = diagnose(artifact(RTX, target), [H100], {"tensorrt-rtx": "1.7.1.116"}).command.split()
    export = main.commands["export"]
    parsed = export.make_context("export", words[2:]).params
    assert (parsed["run"], parsed["format"], parsed["engine"]) == ("mine", "trt", "tensorrt")


def test_nothing_heavy_is_imported(tiny_run: Run) -> None:
    path = tiny_run.artifacts / "fused-onnx-fp32"
    code = f"import sys; from lfdeploy.listing import doctor; doctor({str(path)!r}, 'runs', True); "
    code += "print([m for m in ('torch', 'onnx', 'onnxruntime', 'tensorrt_rtx', 'gradio') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
