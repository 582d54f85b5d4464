"""The Triton model repository: read with Triton's own protobuf, compared with the ONNX file, its
copy executed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import Result
from google.protobuf import text_format
from safetensors.torch import load_file, save_file

from export import triton
from lfdeploy.artifact import Artifact, read
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.run import Run, sha256

triton_config: Any = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="no tritonclient")

TYPES = {"UINT8": onnx.TensorProto.UINT8, "FP32": onnx.TensorProto.FLOAT}


def parsed(place: Path) -> Any:
    """config.pbtxt as Triton reads it: an unknown field or value is an error."""
    return text_format.Parse((place / "config.pbtxt").read_text(), triton_config.ModelConfig())


@pytest.fixture(scope="module")
def repository(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory, lf: Callable[..., Result]) -> Path:
    """Made by the command line, with a target, a batch profile and a name of its own."""
    folder = tmp_path_factory.mktemp("triton")
    places = ("--out", folder / "my model", "--triton", folder / "models")
    result = lf("export", tiny_run.path, "--fused", "--batch", "1:4:16", *places)
    assert result.exit_code == 0, result.stderr
    assert "models/my model; on a GPU, NVIDIA_TF32_OVERRIDE=0" in result.stderr
    return folder / "models"


def test_config_says_what_the_file_is(repository: Path) -> None:
    place = repository / "my model"
    assert sorted(str(p.relative_to(repository)) for p in repository.rglob("*") if p.is_file()) == [
        "my model/1/model.onnx", "my model/config.pbtxt", "my model/labels.txt",
    ]  # fmt: skip
    config, graph = parsed(place), onnx.load(place / "1" / "model.onnx").graph
    assert (config.name, config.platform, config.max_batch_size) == ("my model", "onnxruntime_onnx", 16)
    for told, found in ((config.input, graph.input), (config.output, graph.output)):
        assert [t.name for t in told] == [f.name for f in found]
        for t, f in zip(told, found, strict=True):
            dims = f.type.tensor_type.shape.dim
            assert dims[0].dim_param  # the batch, which Triton adds
            assert list(t.dims) == [d.dim_value for d in dims[1:]]
            assert (
                TYPES[triton_config.DataType.Name(t.data_type).removeprefix("TYPE_")]
                == f.type.tensor_type.elem_type
            )
    assert [o.label_filename for o in config.output] == ["", "labels.txt"]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert [(g.count, g.kind) for g in config.instance_group] == [
        (1, triton_config.ModelInstanceGroup.KIND_AUTO)
    ]


def test_warm_up_and_copy_run_in_onnxruntime(repository: Path, tiny_run: Run) -> None:
    place = repository / "my model"
    session = ort.InferenceSession(place / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    config = parsed(place)
    assert [w.batch_size for w in config.model_warmup] == [1, 4, 16]
    for warm in config.model_warmup:
        (name, fed), = warm.inputs.items()  # fmt: skip
        assert (fed.zero_data, triton_config.DataType.Name(fed.data_type)) == (True, "TYPE_UINT8")
        outputs = session.run(None, {name: np.zeros((warm.batch_size, *fed.dims), np.uint8)})
        assert [o.shape for o in outputs] == [(warm.batch_size, *t.dims) for t in config.output]
    images = np.ascontiguousarray(tiny_run.data().test.images[:16])
    labels = (place / "labels.txt").read_text().splitlines()
    probabilities = session.run(["probabilities"], {"images": images})[0]
    wanted = tiny_run.classifier("fused")(torch.from_numpy(images))[0].argmax(1).tolist()
    assert [labels[i] for i in probabilities.argmax(1)] == [tiny_run.spec["classes"][i] for i in wanted]


def test_again_replaces_its_own_and_nothing_else(repository: Path, tiny_run: Run, tmp_path: Path) -> None:
    artifact = read(tiny_run.artifacts / "peer0-onnx-fp32")
    folder = Path(shutil.copytree(repository, tmp_path / "models"))
    triton.write(artifact, folder)
    triton.write(artifact, folder)
    # no temporary name stays
    assert sorted(p.name for p in folder.iterdir()) == ["my model", "peer0-onnx-fp32"]
    config = folder / "peer0-onnx-fp32" / "config.pbtxt"
    assert sha256(folder / "peer0-onnx-fp32" / "1" / "model.onnx") == artifact.manifest["sha256"]
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    with pytest.raises(
        LfdeployError, match="peer0-onnx-fp32 exists and is not as lfdeploy wrote it; move it away"
    ):
        triton.write(artifact, folder)
    assert "count: 2" in config.read_text()


def test_a_foreign_directory_is_said_before_anything_is_made(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    (tmp_path / "models" / "new").mkdir(parents=True)
    (tmp_path / "models" / "new" / "notes.txt").write_text("mine")
    result = lf(
        "export", tiny_run.path, "--peer", 0, "--out", tmp_path / "new", "--triton", tmp_path / "models"
    )
    assert result.exit_code == 1
    assert "models/new exists and is not as lfdeploy wrote it" in result.stderr
    assert not (tmp_path / "new").exists()
    assert [p.name for p in (tmp_path / "models" / "new").iterdir()] == ["notes.txt"]


def test_openvino_has_both_files(
    tiny_run: Run, elsewhere: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = read(tiny_run.artifacts / "peer0-openvino-fp16")
    place = triton.write(artifact, tmp_path)
    assert {p.name: sha256(p) for p in (place / "1").iterdir()} == artifact.hashes
    config = parsed(place)
    assert (config.backend, config.platform, config.instance_group[0].kind) == (
        "openvino",
        "",
        triton_config.ModelInstanceGroup.KIND_CPU,
    )
    assert "no setting for f32 arithmetic" in capsys.readouterr().err


def test_engine_is_a_plan_and_unverified_is_said(
    tiny_run: Run, copied: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The layout only: a TensorRT engine can be built on a GPU alone, so another file stands in for it."""
    path = copied("peer0-onnx-fp32")
    (path / "model.onnx").rename(path / "model.engine")
    manifest = read(path).manifest | {
        "format": "trt",
        "file": "model.engine",
        "engine": {"package": "tensorrt"},
    }
    manifest |= {
        "parity": {"verdict": "unverified", "reason": "this machine has no NVIDIA GPU", "checks": []}
    }
    place = triton.write(Artifact(path, manifest), tmp_path / "models")
    assert [p.name for p in (place / "1").iterdir()] == ["model.plan"]
    config = parsed(place)
    assert (config.platform, config.instance_group[0].kind) == (
        "tensorrt_plan",
        triton_config.ModelInstanceGroup.KIND_GPU,
    )
    assert f"{path.name} is there UNVERIFIED: this machine has no NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("torch", "--triton takes --format onnx, openvino or trt."),
        ("trt --engine tensorrt-rtx", "--triton: Triton loads TensorRT's engines, not TensorRT-RTX's."),
    ],
)
def test_what_triton_does_not_load_is_refused(
    words: str, said: str, tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    asked = ("--out", tmp_path / "out", "--triton", tmp_path / "models")
    result = lf("export", tiny_run.path, "--peer", 0, "--format", *words.split(), *asked)
    assert (result.exit_code, said in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_after_a_failed_parity_nothing_is_there(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    run = Run(
        Path(
            shutil.copytree(
                tiny_run.path, tmp_path / "runs" / "loud", ignore=shutil.ignore_patterns("artifacts")
            )
        )
    )
    weights = load_file(run.weights)
    weights["peer0.network.stages.0.0.bn1.weight"] *= 1e5
    weights["peer0.network.stages.0.0.bn1.bias"] *= 1e5
    weights["peer0.network.stages.0.0.conv2.weight"] *= 1e-5
    save_file(weights, run.weights)
    result = lf("export", run.path, "--peer", 0, "--precision", "fp16", "--triton", tmp_path / "models")
    assert result.exit_code == 3
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("opt", "most", "preferred"), [(1, 1, []), (1, 2, [2]), (8, 8, [8])])
def test_small_profiles(opt: int, most: int, preferred: list[int], tiny_run: Run) -> None:
    manifest = read(tiny_run.artifacts / "peer0-onnx-fp32").manifest | {
        "batch": {"min": 1, "opt": opt, "max": most}
    }
    config = text_format.Parse(triton.config('a "quoted" näme', manifest), triton_config.ModelConfig())
    assert config.name == 'a "quoted" näme'
    assert list(config.dynamic_batching.preferred_batch_size) == preferred
    assert config.HasField("dynamic_batching") == bool(preferred)
    assert [w.batch_size for w in config.model_warmup] == sorted({1, opt, most})


def test_bf16_goes_to_the_gpu(tiny_run: Run) -> None:
    manifest = read(tiny_run.artifacts / "peer0-onnx-fp32").manifest | {"precision": "bf16"}
    config = text_format.Parse(triton.config("x", manifest), triton_config.ModelConfig())
    assert config.instance_group[0].kind == triton_config.ModelInstanceGroup.KIND_GPU


def test_a_class_name_of_two_lines(tiny_run: Run, tmp_path: Path) -> None:
    artifact = read(tiny_run.artifacts / "peer0-onnx-fp32")
    with pytest.raises(LfdeployError, match="is not one line"):
        triton.write(
            Artifact(
                artifact.path, artifact.manifest | {"labels": ["a\nb", *artifact.manifest["labels"][1:]]}
            ),
            tmp_path / "models",
        )
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
@pytest.mark.fresh_process
def test_messages_stay_off_standard_output(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    result = lf("export", tiny_run.path, "--peer", 1, "--triton", tmp_path / "models", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)[0]["parity"]["verdict"] == "pass"
    assert (tmp_path / "models" / "peer1-onnx-fp32" / "config.pbtxt").exists()
    with pytest.raises(UsageError):
        triton.check("pytorch", tmp_path, [], [])
