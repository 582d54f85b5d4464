"""A published ONNX file in other people's programs, unchanged: the same labels, no complaint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from lfdeploy.backends.openvino import HINTS, core
from lfdeploy.backends.trt import load as load_trt
from lfdeploy.run import Run

PRECISIONS = ["fp32", "fp16", "bf16", "int8"]
NO_CPU = {"bf16": "onnxruntime's CPU provider has no bf16"}


@pytest.fixture(scope="module")
def files(tiny_run: Run, int8_artifact: Path) -> dict[str, Path]:
    """The first peer's model.onnx in every precision."""
    from export import export
    from lfdeploy.config import ExportConfig

    made = {p: export(ExportConfig(peer=0, precision=p), tiny_run)[0].path for p in ("fp16", "bf16")}
    places = made | {"fp32": tiny_run.artifacts / "peer0-onnx-fp32", "int8": int8_artifact}
    return {precision: place / "model.onnx" for precision, place in places.items()}


@pytest.fixture(scope="module")
def pictures(tiny_run: Run) -> np.ndarray:
    return np.ascontiguousarray(tiny_run.data().test.images[:64])


def agreement(run: Run, pictures: np.ndarray, probabilities: np.ndarray) -> float:
    with torch.inference_mode():
        wanted = run.classifier("peer0")(torch.from_numpy(pictures))[0].argmax(1).numpy()
    return float((probabilities.argmax(1) == wanted).mean())


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p not in NO_CPU])
def test_onnxruntime(precision: str, files: dict[str, Path], tiny_run: Run, pictures: np.ndarray) -> None:
    session = ort.InferenceSession(files[precision], providers=["CPUExecutionProvider"])
    probabilities = session.run(["probabilities"], {"images": pictures})[0]
    assert agreement(tiny_run, pictures, probabilities) >= (0.95 if precision == "int8" else 1.0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_openvino_reads_onnx(
    precision: str, files: dict[str, Path], tiny_run: Run, pictures: np.ndarray
) -> None:
    model = core().compile_model(core().read_model(files[precision]), "CPU", HINTS)
    assert agreement(tiny_run, pictures, model(pictures)["probabilities"]) >= (
        0.95 if precision in ("int8", "bf16") else 1.0
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnx_checker(precision: str, files: dict[str, Path]) -> None:
    onnx.checker.check_model(onnx.load(files[precision]), full_check=True)
    onnx.shape_inference.infer_shapes(
        onnx.load(files[precision]), check_type=True, strict_mode=True, data_prop=True
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_polygraphy_inspects(precision: str, files: dict[str, Path], tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("polygraphy")), "inspect", "model", str(files[precision])]
    env = os.environ | {"POLYGRAPHY_AUTOINSTALL_DEPS": "0", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert "images [dtype=uint8, shape=('batch', 16, 16, 3)]" in done.stdout
    for output in ("logits", "probabilities"):
        assert f"{output} [dtype=float32, shape=('batch', 10)]" in done.stdout


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "int8"])
def test_tensorrt_rtx_parses(precision: str, files: dict[str, Path]) -> None:
    """int8 for TensorRT is another file (s8s8), built and parsed by `--format trt`."""
    trt = load_trt("tensorrt-rtx")
    network = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(files[precision])), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    assert [network.get_output(i).name for i in range(network.num_outputs)] == ["logits", "probabilities"]
    assert [network.get_output(i).dtype for i in range(network.num_outputs)] == [trt.float32] * 2
    assert (network.get_input(0).name, network.get_input(0).dtype) == ("images", trt.uint8)
