"""The ensemble that takes files: its configs by Triton's own protobuf, its step by the protocol's objects."""

from __future__ import annotations

import io
import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from google.protobuf import json_format, text_format
from PIL import Image

from export import triton
from lfdeploy.artifact import read
from lfdeploy.predict import Predictor
from lfdeploy.run import Run

triton_config: Any = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="no tritonclient")


@dataclass
class Tensor:
    """What the backend's module has: a name and an array."""

    name: str
    array: np.ndarray[Any, Any]

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self.array


@dataclass
class Response:
    """Tensors, or an error."""

    output_tensors: list[Tensor]
    error: Exception | None = None


class TritonError(Exception):
    """A sentence for the client."""


def parsed(place: Path) -> Any:
    return text_format.Parse((place / "config.pbtxt").read_text(), triton_config.ModelConfig())


def files() -> list[bytes]:
    """A JPEG with an orientation, a grey PNG, and one that is none."""
    rng = np.random.default_rng(0)
    found = []
    for shape, kind in (((40, 60, 3), "JPEG"), ((31, 29), "PNG")):
        stream, image = io.BytesIO(), Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(stream, kind, exif=exif)
        found.append(stream.getvalue())
    return [*found, b"no picture at all"]


@pytest.fixture
def repository(tiny_run: Run, tmp_path: Path) -> Path:
    triton.write(read(tiny_run.artifacts / "peer0-onnx-fp32"), tmp_path / "models", pictures=True)
    return tmp_path / "models"


@pytest.fixture
def step(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The step as the backend makes it: the file by its path, the config as JSON."""
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.InferenceResponse, utils.TritonError = Tensor, Response, TritonError
    utils.get_input_tensor_by_name = lambda request, name: request[name]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    place = repository / "peer0-onnx-fp32-decode"
    model = runpy.run_path(str(place / "1" / "model.py"))["TritonPythonModel"]()
    told = json_format.MessageToDict(parsed(place), preserving_proto_field_name=True)
    model.initialize({"model_config": json.dumps(told)})
    return model


def asked(*blobs: bytes) -> dict[str, Tensor]:
    return {"encoded": Tensor("encoded", np.array([[blob] for blob in blobs], dtype=object))}


def test_its_parts_fit_together(repository: Path) -> None:
    whole, step, model = (
        parsed(repository / f"peer0-onnx-fp32{end}") for end in ("-pictures", "-decode", "")
    )
    assert (whole.platform, step.backend) == ("ensemble", "python")
    assert whole.max_batch_size == step.max_batch_size == model.max_batch_size
    first, second = whole.ensemble_scheduling.step
    assert (first.model_name, second.model_name) == (step.name, model.name)
    assert dict(first.input_map) == {step.input[0].name: whole.input[0].name}
    assert dict(first.output_map) == {step.output[0].name: second.input_map[model.input[0].name]}
    assert dict(second.output_map) == {o.name: o.name for o in whole.output}
    assert [(o.name, list(o.dims)) for o in whole.output] == [(o.name, list(o.dims)) for o in model.output]
    for one, other in ((whole.input[0], step.input[0]), (step.output[0], model.input[0])):
        assert (one.data_type, list(one.dims)) == (other.data_type, list(other.dims))


def test_the_step_makes_the_pixels_of_predict(step: Any, tiny_run: Run) -> None:
    """The same files through the step and the model have the scores of `predict`, to the bit."""
    predictor = Predictor.open(tiny_run.artifacts / "peer0-onnx-fp32")
    good = files()[:2]
    (answer,) = step.execute([asked(*good)])
    assert answer.error is None and answer.output_tensors[0].name == "images"
    pixels = answer.output_tensors[0].array
    assert (pixels.dtype, pixels.shape) == (np.uint8, (2, predictor.size, predictor.size, 3))
    for row, blob in zip(pixels, good, strict=True):
        probabilities = predictor.run(row[None])[1][0]
        told = dict(predictor.predict(blob, top=len(predictor.labels)).top)
        assert [told[label] for label in predictor.labels] == probabilities.tolist()


def test_a_bad_file_is_refused_alone(step: Any) -> None:
    good, _, bad = files()
    first, second, third = step.execute([asked(good), asked(bad), asked(good, bad)])
    assert first.error is None and not second.output_tensors and not third.output_tensors
    assert str(second.error).startswith("the upload is not a picture")
    assert str(third.error).startswith("picture 1 of 2: ")


def test_another_rule_is_refused(step: Any, repository: Path) -> None:
    told = json_format.MessageToDict(
        parsed(repository / "peer0-onnx-fp32-decode"), preserving_proto_field_name=True
    )
    rule = json.loads(told["parameters"]["resize"]["string_value"])
    told["parameters"]["resize"]["string_value"] = json.dumps(rule | {"version": 2})
    with pytest.raises(RuntimeError, match="by another rule"):
        step.initialize({"model_config": json.dumps(told)})


def test_the_command_writes_it(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    refused = lf("export", tiny_run.path, "--peer", 0, "--triton-pictures")
    assert (refused.exit_code, "without --triton; add it" in refused.stderr) == (2, True)
    (tmp_path / "models" / "mine-decode").mkdir(parents=True)
    (tmp_path / "models" / "mine-decode" / "notes.txt").write_text("mine")
    words = ("--out", tmp_path / "mine", "--triton", tmp_path / "models", "--triton-pictures")
    refused = lf("export", tiny_run.path, "--peer", 0, *words)
    assert "models/mine-decode exists and is not as lfdeploy wrote it" in refused.stderr
    assert not (tmp_path / "mine").exists()
