"""TensorRT's code where there is no GPU: what can be read of a network, an inspector's document, a plan's
header, a batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.build.graph import in_precision, to_onnx
from lfdeploy.backends import BACKENDS, buckets, trt_build, trt_layers
from lfdeploy.backends.trt import INVALID, header_faults, invalid, load, log_to, no_kernels
from lfdeploy.devices import Gpu
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.models import create
from lfdeploy.models.deploy import Classifier

RTX = "tensorrt-rtx"

#: the layer that NVIDIA's developer guide prints (Engine Inspector, ProfilingVerbosity DETAILED), shortened
CASK = {
    "Name": "node_of_gpu_0/res4_0_branch2a_1 + node_of_gpu_0/res4_0_branch2a_bn_1",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {
            "Name": "gpu_0/res3_3_branch2c_bn_3",
            "Dimensions": [16, 512, 28, 28],
            "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format.",
        }
    ],
    "Outputs": [
        {
            "Name": "gpu_0/res4_0_branch2a_bn_2",
            "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format.",
        }
    ],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 131072},
    "Bias": {"Type": "Float", "Count": 256},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_"
    "nchw_vect_c_32kcrs_vect_c_32_nchw",
}


def layer(kind: str, type: str, key: str = "Format/Datatype") -> dict[str, Any]:
    return {
        "Name": kind,
        "LayerType": kind,
        "Inputs": [{"Name": "x", key: type}],
        "Outputs": [{"Name": "y", key: "Float"}],
    }


#: a document's layers, and what they show. Type names as in the guide (10.x: a sentence), in trtexec's layer
#: files of 10.x and 11.x (Myelin's layers, whose types are single words), and in the 11.x page on
#: `IEngineInspector` (I/O Tensors: DataType).
DOCUMENTS: dict[str, tuple[list[Any], trt_layers.Layers]] = {
    "the guide's int8 convolution": ([CASK], {"convolution": {"int8": 1}}),
    "sentences": (
        [
            layer("Reformat", "Row major linear FP32"),
            layer("CaskConvolution", "Channel major FP16 format where channel % 4 == 0"),
            layer("CaskGemmMatrixMultiply", "Row major linear FP16 format"),
        ],
        {"convolution": {"fp16": 1}, "matrix_multiply": {"fp16": 1}},
    ),
    "Myelin's words": (
        [layer("kgen", "Float"), layer("conv", "BFloat16"), layer("gemm", "BFloat16"), layer("gemm", "Half")],
        {"convolution": {"bf16": 1}, "matrix_multiply": {"bf16": 1, "fp16": 1}},
    ),
    "a key of its own for the type": (
        [layer("CaskConvolution", "Half", key="Datatype")],
        {"convolution": {"fp16": 1}},
    ),
    "dynamic shapes, no context": ([layer("CaskConvolution", "N/A due to dynamic shapes")], {}),
    "names only": (["conv1 + relu1", "Reformatting CopyNode"], {}),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_inspectors_documents_are_read(case: str) -> None:
    layers, shown = DOCUMENTS[case]
    for frame in (
        {"Bindings": ["images", "logits"]},
        {"I/O Tensors": [{"Name": "images", "IOMode": "Input", "DataType": "UInt8"}]},
    ):
        assert trt_layers.of_inspector(json.dumps({"Layers": layers} | frame)) == shown


@pytest.mark.parametrize("document", ["", "[]", "Layers: conv", '{"Bindings": []}'])
def test_what_is_no_document_is_refused(document: str) -> None:
    with pytest.raises(LfdeployError, match="not the JSON that TensorRT documents"):
        trt_layers.of_inspector(document)


def test_asked_is_what_is_achieved_or_an_error() -> None:
    trt_layers.require({"convolution": {"fp16": 9}, "matrix_multiply": {"fp16": 1}}, "fp16", "network")
    with pytest.raises(LfdeployError, match="1 of 10 convolutions in fp32: it is not kept"):
        trt_layers.require({"convolution": {"fp16": 9, "fp32": 1}}, "fp16", "inspector")
    with pytest.raises(LfdeployError, match="1 of 1 matrix products in fp32"):
        trt_layers.require({"convolution": {"int8": 9}, "matrix_multiply": {"fp32": 1}}, "int8", "network")
    with pytest.raises(LfdeployError, match="no convolution and no matrix product"):
        trt_layers.require({"quantize": {"int8": 3}}, "int8", "inspector")


def onnx_file(path: Path, half: bool = False, quantized: tuple[bool, bool] = (False, False)) -> Path:
    """images uint8 -> one convolution -> logits; in fp16, or with Q/DQ before its (pixels, weights)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT16 if half else TensorProto.FLOAT)
    ]
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float16 if half else np.float32)
    constants = [numpy_helper.from_array(weights, "w")]
    constants += [
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    names = ["x", "w"]
    for index, wanted in enumerate(quantized):
        if wanted:
            name = names[index]
            nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_dq"]))
            names[index] = f"{name}_dq"
    nodes.append(helper.make_node("Conv", names, ["y"], name="conv"))
    nodes.append(helper.make_node("Cast", ["y"], ["logits"], to=TensorProto.FLOAT))
    pixels = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, 8, 8])
    answer = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 6, 6])
    graph = helper.make_graph(nodes, "g", [pixels], [answer], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


#: how the file is made, what may be asked of it, and what the network shows
NETWORKS: dict[str, tuple[dict[str, Any], str, trt_layers.Layers]] = {
    "fp32": ({}, "fp32", {"convolution": {"fp32": 1}}),
    "fp16": ({"half": True}, "fp16", {"convolution": {"fp16": 1}}),
    "int8": (
        {"quantized": (True, True)},
        "int8",
        {"convolution": {"int8": 1}, "quantize": {"int8": 2}, "dequantize": {"int8": 2}},
    ),
    "weights alone": (
        {"quantized": (False, True)},
        "fp32",
        {"convolution": {"fp32": 1}, "quantize": {"int8": 1}, "dequantize": {"int8": 1}},
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_an_engine_is_built_only_in_the_precision_asked_for(case: str, tmp_path: Path) -> None:
    how, able, shown = NETWORKS[case]
    source, out = onnx_file(tmp_path / "x.onnx", **how), tmp_path / "x.engine"
    told = trt_build.build_here(RTX, source, out, (1, 2, 4), able)
    assert (told["layers"], told["tf32"], told["portable"]) == (shown, False, False)
    assert told["proof"] in ("network", "inspector")
    assert header_faults(RTX, out) in ((), ("UNSUPPORTED_CC",))
    for asked in {"fp32", "fp16", "bf16", "int8"} - {able}:
        out.unlink(missing_ok=True)
        with pytest.raises(
            LfdeployError,
            match=f"{asked} was asked for, and the engine's network shows 1 of 1 convolutions in {able}",
        ):
            trt_build.build_here(RTX, source, out, (1, 2, 4), asked)
        assert not out.exists()


def test_the_process_hands_its_one_line_on(tmp_path: Path) -> None:
    source = onnx_file(tmp_path / "x.onnx")
    with pytest.raises(LfdeployError, match=r"^fp16 was asked for.*it is not kept.$"):
        trt_build.build(RTX, source, tmp_path / "x.engine", (1, 2, 4), "fp16")


@pytest.mark.slow
def test_rtx_builds_the_same_bytes_in_any_folder_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """resnet18 as it is exported: large enough for threads and addresses to matter."""
    torch.manual_seed(0)
    classifier = Classifier(create("resnet18", 10), [0.5] * 3, [0.25] * 3).eval()
    blob, made = to_onnx(in_precision(classifier, "fp32", 64), 64, (1, 2, 4), {}), set()
    for number, name in enumerate(("a", "b/with/a/much/longer/name/than/the/folder/before/it", "c")):
        monkeypatch.setenv("HOME", str(tmp_path / name))
        monkeypatch.setenv("LFDEPLOY_TEST", "x" * 3000 * number)
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "source.onnx").write_bytes(blob)
        told = trt_build.build(
            RTX, tmp_path / name / "source.onnx", tmp_path / name / "model.engine", (1, 2, 4), "fp32"
        )
        made.add((tmp_path / name / "model.engine").read_bytes())
    ask = "import ctypes; print(ctypes.CDLL(None).personality(0x40000) != -1)"
    granted = (
        subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
        == "True"
    )
    assert told["repeatable"] is granted  # containers may forbid fixed addresses
    assert len(made) == 1 or not granted


def test_rtx_grants_no_hardware_compatibility(tmp_path: Path) -> None:
    from lfdeploy.backends import builder

    with pytest.raises(LfdeployError, match=r"tensorrt-rtx 1.* gives hardware compatibility NONE only"):
        trt_build.build_here(
            RTX, onnx_file(tmp_path / "x.onnx"), tmp_path / "x.engine", (1, 2, 4), "fp32", portable=True
        )
    with pytest.raises(
        UsageError,
        match="--portable has no meaning for tensorrt-rtx: its engines run on every GPU from Ampere on",
    ):
        builder("trt", RTX, "fp32", portable=True)
    with pytest.raises(UsageError, match="--portable has no meaning for onnxruntime: it is for --format trt"):
        builder("onnx", "auto", "fp32", portable=True)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_timings_are_kept_and_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With RTX, whose timing cache takes the same calls and holds nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = trt_build.timing_file("11.4.0.106", "NVIDIA H100 80GB HBM3", False)
    assert file == tmp_path / "lfdeploy" / "tensorrt-11.4.0.106-nvidia-h100-80gb-hbm3.timing"
    assert (
        len(
            {
                file,
                trt_build.timing_file("11.4.0.106", "NVIDIA L4", False),
                trt_build.timing_file("11.4.0.106", "NVIDIA L4", True),
            }
        )
        == 3
    )
    trt = load(RTX)
    logger = log_to(trt, [])
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    assert trt_build.remember(config, file) is False
    trt_build.keep(config, file)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_damaged_header_is_told_without_a_gpu(tmp_path: Path) -> None:
    good, bad = tmp_path / "x.engine", tmp_path / "y.engine"
    trt_build.build_here(RTX, onnx_file(tmp_path / "x.onnx"), good, (1, 2, 4), "fp32")
    bad.write_bytes(b"\x00" * 8 + good.read_bytes()[8:])
    assert header_faults(RTX, good) in ((), ("UNSUPPORTED_CC",))
    assert "MALFORMED_ENGINE" in header_faults(RTX, bad)
    assert set(INVALID) == set(load(RTX).EngineInvalidityDiagnostics.__members__)


def test_every_reason_is_told_by_its_name() -> None:
    """The package's own enumerations around an answer of our choosing: the reasons need other machines than
    this one.
    """
    real = load(RTX)

    class Runtime:
        def __init__(self, logger: Any) -> None: ...

        def get_engine_validity(self, blob: bytes) -> tuple[Any, int]:
            return verdict, bits

    class Package:
        ILogger, EngineValidity, EngineInvalidityDiagnostics = (
            real.ILogger,
            real.EngineValidity,
            real.EngineInvalidityDiagnostics,
        )

    Package.Runtime = Runtime  # type: ignore[attr-defined]
    for name in INVALID:
        verdict, bits = real.EngineValidity.INVALID, int(getattr(real.EngineInvalidityDiagnostics, name))
        assert invalid(Package, b"") == (name,)
    bits = int(real.EngineInvalidityDiagnostics.VERSION_MISMATCH) | int(
        real.EngineInvalidityDiagnostics.UNSUPPORTED_CC
    )
    assert invalid(Package, b"") == ("VERSION_MISMATCH", "UNSUPPORTED_CC")
    verdict, bits = real.EngineValidity.SUBOPTIMAL, 0
    assert invalid(Package, b"") == ()


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (6, (1, 2, 4, 6)),
        (64, (1, 2, 4, 8, 16, 32, 64)),
        (65, (1, 2, 4, 8, 16, 32, 64, 65)),
    ],
)
def test_buckets_cover_every_batch(most: int, sizes: tuple[int, ...]) -> None:
    assert buckets.buckets(most) == sizes
    for size in range(1, most + 1):
        taken = buckets.bucket(size, most)
        assert taken in sizes and size <= taken and not [b for b in sizes if size <= b < taken]
    for size in (0, most + 1):
        with pytest.raises(ValueError, match=f"batch of {size}"):
            buckets.bucket(size, most)


def test_padding_never_reaches_an_answer() -> None:
    """The session's steps around a program that answers the sum of each picture."""
    random, buffer = np.random.default_rng(0), np.full((8, 4, 4, 3), 255, np.uint8)
    answers = np.empty((8, 1), np.float32)
    kept = []
    for size in (8, 5, 1, 7):
        images = random.integers(0, 256, (size, 4, 4, 3), dtype=np.uint8)
        buckets.fill(buffer, images)
        assert not buffer[size:].any()  # nobody's picture stays behind
        answers[:] = buffer.sum((1, 2, 3), dtype=np.float32)[:, None]
        kept.append((images, buckets.cut(answers, size)))
    for images, found in kept:  # also after the buffers were used again
        np.testing.assert_array_equal(found[:, 0], images.sum((1, 2, 3), dtype=np.float32))


@pytest.mark.parametrize(
    ("capability", "able"),
    [("8.6", True), ("12.1", True), ("13.0", True), ("9.0", False), ("10.0", False)],
)
def test_rtx_names_the_gpus_that_it_has_kernels_for(capability: str, able: bool) -> None:
    """It has none for data-centre GPUs after Ampere: an engine there is unverified, not wrong."""
    reason = no_kernels(RTX, "H100", capability)
    assert (reason == "") is able
    assert able or f"no kernels for H100 (compute capability {capability}), only for 7.5, 8.0, 8.6" in reason


def test_an_engine_cannot_run_on_a_gpu_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfdeploy.backends.trt.gpus", lambda: (Gpu("H100", "9.0"),))
    assert "no kernels for H100" in BACKENDS[RTX].cannot_run()
    assert BACKENDS[RTX].missing() == ""  # it builds for others
