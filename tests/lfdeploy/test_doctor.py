"""What doctor says of artifacts on machines that differ in GPU, package and version: facts go in, a sentence
comes out.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from lfdeploy.artifact import Artifact, sealed
from lfdeploy.cli import main
from lfdeploy.devices import Gpu
from lfdeploy.devices import gpus as gpus_here
from lfdeploy.doctor import diagnose
from lfdeploy.errors import ParityError
from lfdeploy.run import Run, sha256, write_json

H100, ADA, BLACKWELL, NEXT = (
    Gpu("H100", "9.0"),
    Gpu("L4", "8.9"),
    Gpu("RTX 5090", "12.0"),
    Gpu("Later", "12.1"),
)
RTX = {
    "package": "tensorrt-rtx",
    "version": "1.7.1.116",
    "compute_capabilities": ["8.0", "8.6", "8.9", "12.0"],
}
TRT = {"package": "tensorrt", "version": "10.14.1", "compute_capabilities": ["9.0"]}


def artifact(
    engine: dict[str, Any] | None, target: str = "peer0", path: str = "x", format: str = ""
) -> Artifact:
    manifest = {
        "target": target,
        "precision": "fp16",
        "run": {"name": "mine"},
        "format": format or ("trt" if engine else "onnx"),
    }
    return Artifact(Path(path), manifest | ({"engine": engine} if engine else {}))


ORT, HAS_RTX, HAS_TRT = {"onnxruntime-gpu": "1.27"}, {"tensorrt-rtx": "1.7.1.116"}, {"tensorrt": "10.14.1"}
REBUILD = "--format trt --precision fp16 --engine "

#: what built it, the machine's GPUs, what is installed; the state and part of the command
CASES = {
    "onnx on a CPU": (None, [], ORT, "runs here", "lfdeploy predict x"),
    "onnx without its runtime": (None, [], {}, "package missing", "pip install onnxruntime-gpu"),
    "openvino on a CPU": (None, [], {"openvino": "2026.4.1"}, "runs here", "lfdeploy predict x"),
    "openvino without its package": (None, [H100], ORT, "package missing", "pip install openvino"),
    "torch on a CPU": (None, [], {"torch": "2.15.0"}, "runs here", "lfdeploy predict x"),
    "engine without a GPU": (
        RTX,
        [],
        HAS_RTX,
        "no GPU",
        "export mine --peer 0 --format onnx --precision fp16",
    ),
    "engine without its package": (TRT, [H100], {}, "package missing", "pip install tensorrt==10.14.1"),
    "rtx on a listed GPU": (RTX, [ADA], HAS_RTX, "runs here", "lfdeploy verify x"),
    "rtx on its last GPU": (RTX, [BLACKWELL], HAS_RTX, "runs here", "lfdeploy verify x"),
    "rtx on a later GPU": (RTX, [NEXT], HAS_RTX, "runs here", "lfdeploy verify x"),
    "rtx on a data-centre GPU": (RTX, [H100], HAS_RTX, "wrong GPU", REBUILD + "tensorrt"),
    "tensorrt on its GPU": (TRT, [H100], HAS_TRT, "runs here", "lfdeploy verify x"),
    "tensorrt on a later GPU": (TRT, [BLACKWELL], HAS_TRT, "wrong GPU", REBUILD + "tensorrt"),
    "tensorrt of another version": (
        TRT,
        [H100],
        {"tensorrt": "11.4.0"},
        "wrong version",
        REBUILD + "tensorrt",
    ),
    "rtx of another version": (
        RTX,
        [ADA],
        {"tensorrt-rtx": "1.8.0.1"},
        "wrong version",
        REBUILD + "tensorrt-rtx",
    ),
}

PORTABLE = TRT | {"portable": True}
DAMAGED, OTHER_GPU, OLD_DRIVER = (
    {"MALFORMED_ENGINE": "d"},
    {"UNSUPPORTED_CC": "g"},
    {"OLD_CUDA_DRIVER": "the driver is old"},
)

#: as above, with what the package says of the engine's header
HEADERS = {
    "damaged, no GPU": (RTX, [], HAS_RTX, DAMAGED, "damaged", REBUILD + "tensorrt-rtx"),
    "damaged, its GPU": (RTX, [ADA], HAS_RTX, DAMAGED, "damaged", REBUILD + "tensorrt-rtx"),
    "the package knows better": (RTX, [ADA], HAS_RTX, OTHER_GPU, "wrong GPU", REBUILD + "tensorrt"),
    "old driver": (RTX, [ADA], HAS_RTX, OLD_DRIVER, "refused", REBUILD + "tensorrt-rtx"),
    "portable on a later GPU": (PORTABLE, [BLACKWELL], HAS_TRT, {}, "runs here", "lfdeploy verify x"),
    "portable on an earlier GPU": (
        PORTABLE,
        [Gpu("T4", "7.5")],
        HAS_TRT,
        {},
        "wrong GPU",
        REBUILD + "tensorrt",
    ),
    "portable, later version": (
        PORTABLE,
        [H100],
        {"tensorrt": "11.4.0.106"},
        {},
        "runs here",
        "lfdeploy verify x",
    ),
    "portable, earlier version": (
        PORTABLE,
        [H100],
        {"tensorrt": "10.13.3"},
        {},
        "wrong version",
        REBUILD + "tensorrt",
    ),
    "portable, two majors on": (
        PORTABLE,
        [H100],
        {"tensorrt": "12.0.1"},
        {},
        "wrong version",
        REBUILD + "tensorrt",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_what_the_package_says_counts(case: str) -> None:
    engine, gpus, installed, faults, state, command = HEADERS[case]
    found = diagnose(artifact(engine), gpus, installed, faults)
    assert (found.state, found.command.endswith(command)) == (state, True), found


def test_doctor_asks_the_package_of_an_engine(tmp_path: Path, lf: Callable[..., Result]) -> None:
    """A file that is its manifest's and no engine: only the package can tell."""
    for name, content, state in (
        ("whole", b"vtrt" + bytes(4), "no GPU"),
        ("broken", b"plain text", "damaged"),
    ):
        place = tmp_path / name
        place.mkdir()
        (place / "model.engine").write_bytes(content * 32)
        rest = {
            "labels": [],
            "outputs": [],
            "input": {},
            "run": {"name": "mine"},
            "parity": {"verdict": "unverified"},
            "schema": 1,
        }
        manifest = rest | {
            "target": "peer0",
            "precision": "fp16",
            "format": "trt",
            "file": "model.engine",
            "engine": RTX,
        }
        manifest |= {"batch": {"min": 1, "opt": 8, "max": 64}, "sha256": sha256(place / "model.engine")}
        write_json(place / "manifest.json", sealed(manifest))
        told = json.loads(lf("doctor", place, "--json").stdout)["artifact"]
        assert told["state"] == state or (name == "whole" and gpus_here()), told


@pytest.mark.parametrize("case", CASES)
def test_every_machine_gets_its_answer(case: str) -> None:
    engine, gpus, installed, state, command = CASES[case]
    first = case.split()[0]
    found = diagnose(
        artifact(engine, format=first if first in ("openvino", "torch") else ""), gpus, installed
    )
    assert (found.state, found.reason != "") == (state, True)
    assert command in found.command


@pytest.mark.parametrize("target", ["peer1", "fused", "ensemble"])
def test_commands_are_ones_the_program_takes(target: str) -> None:
    words = diagnose(artifact(RTX, target), [H100], {"tensorrt-rtx": "1.7.1.116"}).command.split()
    export = main.commands["export"]
    parsed = export.make_context("export", words[2:]).params
    assert (parsed["run"], parsed["format"], parsed["engine"]) == ("mine", "trt", "tensorrt")


def test_a_path_with_a_space_can_be_pasted() -> None:
    assert shlex.split(diagnose(artifact(None, path="my runs/x"), [], ORT).command)[2] == "my runs/x"


@pytest.mark.parametrize("engine", [None, {"package": "tensorrt"}])
def test_an_engine_that_tells_nothing_is_refused(engine: dict[str, Any] | None) -> None:
    with pytest.raises(ParityError, match="does not say what built its engine"):
        diagnose(artifact(engine, format="trt"), [ADA], HAS_RTX)


def test_a_format_that_nobody_knows_is_no_damaged_engine() -> None:
    found = diagnose(artifact(None, format="ort"), [], ORT)
    assert (found.state, found.command) == ("not known", "lfdeploy verify x")
    assert "ort" in found.reason


def test_nothing_heavy_is_imported(tiny_run: Run) -> None:
    path = tiny_run.artifacts / "fused-onnx-fp32"
    code = f"import sys; from lfdeploy.doctor import doctor; doctor({str(path)!r}, 'runs', True); "
    code += (
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'tensorrt_rtx', 'gradio') if m in "
        "sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "code", "word"),
    [
        (["train"], 1, "lfdeploy train needs torch, which is not installed here. Run: pip install torch"),
        (["doctor"], 0, "PyTorch is not installed"),
    ],
)
def test_where_torch_is_not_installed(words: list[str], code: int, word: str, tmp_path: Path) -> None:
    """As on a server that only answers: one line, and doctor does not say that it works."""
    program = "import sys; sys.modules['torch'] = None; from lfdeploy.cli import main; main()"
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == code and word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.count("\n") == 1
