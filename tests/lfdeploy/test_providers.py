"""Execution providers: asked for is what executes, or an error.

Here only the CPU's is real, so it plays both parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from lfdeploy.artifact import read
from lfdeploy.backends import BACKENDS, Source, chosen, executes, providers
from lfdeploy.devices import gpus
from lfdeploy.errors import LfdeployError
from lfdeploy.run import Run

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
BLANK = np.zeros((1, 16, 16, 3), np.uint8)
no_gpu = pytest.mark.skipif(bool(gpus()), reason="what a machine without a GPU says")


def node(op: str, provider: str) -> dict[str, Any]:
    """An event as onnxruntime 1.31 writes it for a node, without its times."""
    return {
        "cat": "Node",
        "name": f"{op}_kernel_time",
        "args": {"op_name": op, "provider": provider, "node_index": "3"},
    }


def test_a_real_session_is_proven_and_leaves_nothing_behind(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    artifact = read(tiny_run.artifacts / "fused-onnx-fp32")
    session = providers.session_on(artifact.file.resolve(), CPU, {}, BLANK)
    pixels = tiny_run.data().test.images[:9]
    own = BACKENDS["onnxruntime"].open(Source(artifact.file, artifact.manifest), "cpu")
    np.testing.assert_array_equal(session.run(["logits"], {"images": pixels})[0], own(pixels)[0])
    assert list(tmp_path.iterdir()) == []


def test_what_ran_is_read_from_a_real_profile(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(providers, "require", lambda found, provider: seen.append(found))
    providers.session_on(tiny_run.artifacts / "peer0-onnx-fp32" / "model.onnx", CPU, {}, BLANK)
    monkeypatch.undo()
    (found,) = seen
    assert set(found) == {CPU}
    assert (found[CPU]["Conv"], found[CPU]["Gemm"], found[CPU]["Softmax"]) == (9, 1, 1)
    providers.require(found, CPU)
    with pytest.raises(
        LfdeployError, match=f"ran no node on {CUDA}, which was asked for; providers that ran: {CPU}"
    ):
        providers.require(found, CUDA)


def test_one_convolution_elsewhere_is_an_error_and_a_shape_is_none() -> None:
    ran = [
        node("Conv", CUDA),
        node("Gemm", CUDA),
        node("Shape", CPU),
        node("Gather", CPU),
        {"cat": "Session", "name": "model_run"},
    ]
    providers.require(providers.placed(ran), CUDA)
    for stray in ("Conv", "FusedConv", "QLinearConv", "MatMulInteger", "NhwcFusedConv"):
        with pytest.raises(LfdeployError, match=f"{CUDA} was asked for, .* elsewhere: 2 on {CPU}"):
            providers.require(providers.placed([*ran, node(stray, CPU), node(stray, CPU)]), CUDA)
    # the graph is one node there
    whole = [node("TRTKernel_graph_main_graph_0", "TensorrtExecutionProvider"), node("Cast", CPU)]
    providers.require(providers.placed(whole), "TensorrtExecutionProvider")
    with pytest.raises(LfdeployError, match="providers that ran: none"):
        providers.require(providers.placed([]), CUDA)


@no_gpu
@pytest.mark.parametrize(
    ("provider", "said"),
    [
        (CUDA, f"onnxruntime gave {CPU} where {CUDA} was asked for"),
        ("TensorrtExecutionProvider", "cannot be opened with TensorrtExecutionProvider"),
        ("NvTensorRTRTXExecutionProvider", "NvTensorRTRTXExecutionProvider"),
    ],
)
def test_onnxruntime_does_not_fall_back_unseen(
    tiny_run: Run, provider: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LfdeployError, match=said) as caught:
        providers.session_on(tiny_run.artifacts / "peer0-onnx-fp32" / "model.onnx", provider, {}, BLANK)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@no_gpu
@pytest.mark.parametrize("name", providers.PROVIDERS)
@pytest.mark.parametrize("command", ["verify", "predict", "bench", "evaluate"])
def test_commands_refuse_what_cannot_run(
    tiny_run: Run, name: str, command: str, lf: Callable[..., Result]
) -> None:
    words = ["picture.png"] if command == "predict" else []
    result = lf(command, tiny_run.artifacts / "peer0-onnx-fp32", *words, "--backend", name)
    provider = providers.PROVIDERS[name].name
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        result.stderr
        == f"Error: --backend {name}: this machine has no NVIDIA GPU, and {provider} runs on nothing else.\n"
    )


def test_a_backend_can_be_asked_for(tiny_run: Run, lf: Callable[..., Result]) -> None:
    path = tiny_run.artifacts / "peer0-onnx-fp32"
    assert executes(read(path).manifest) == chosen(read(path).manifest, "auto") == "onnxruntime"
    result = lf("evaluate", path, "--backend", "onnxruntime", "--json")
    assert json.loads(result.stdout)["backend"] == "onnxruntime"
    wrong = lf("verify", path, "--backend", "openvino")
    assert (
        wrong.exit_code,
        "--backend openvino does not open onnx; onnxruntime, onnxruntime-cuda" in wrong.stderr,
    ) == (2, True)
    run = lf("evaluate", tiny_run.path, "--backend", "onnxruntime")
    assert (run.exit_code, "is for artifacts; tiny is a run" in run.stderr) == (1, True)


def test_options_say_the_batch_profile_and_the_precision() -> None:
    manifest = {
        "precision": "fp16",
        "input": {"name": "images", "height": 16, "width": 16},
        "batch": {"min": 1, "opt": 8, "max": 64},
    }
    options = providers.PROVIDERS["onnxruntime-tensorrt"].options(manifest)
    assert options == {
        "trt_profile_min_shapes": "images:1x16x16x3",
        "trt_profile_opt_shapes": "images:8x16x16x3",
        "trt_profile_max_shapes": "images:64x16x16x3",
        "trt_fp16_enable": "1",
    }
    assert "nv_profile_opt_shapes" in providers.PROVIDERS["onnxruntime-tensorrt-rtx"].options(manifest)
    assert not [
        key
        for key in providers.PROVIDERS["onnxruntime-tensorrt"].options(manifest | {"precision": "fp32"})
        if "enable" in key
    ]
