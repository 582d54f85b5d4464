"""The static half of the parity gate: what a file and its manifest say, before anything is executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfdeploy.artifact import Artifact, input_of
from lfdeploy.errors import ParityError
from lfdeploy.run import Run, sha256


@dataclass(frozen=True)
class Check:
    """One number against one bound."""

    stage: str
    name: str
    value: float | str
    bound: float | str
    passed: bool


def shown(value: float | str) -> str:
    """A value as it stands in a sentence."""
    return value if isinstance(value, str) else f"{value:.3g}"


def at_most(stage: str, name: str, value: float, bound: float) -> Check:
    """Passes when value <= bound, so never for NaN."""
    return Check(stage, name, float(value), float(bound), bool(value <= bound))


def at_least(stage: str, name: str, value: float, bound: float) -> Check:
    """Passes when value >= bound, so never for NaN."""
    return Check(stage, name, float(value), float(bound), bool(value >= bound))


def equal(stage: str, name: str, found: object, wanted: object) -> Check:
    """Passes when both are the same JSON value."""
    a, b = (x if isinstance(x, str) else json.dumps(x, ensure_ascii=False, sort_keys=True) for x in (found, wanted))
    return Check(stage, name, a[:200], b[:200], a == b)


def embedded(path: Path) -> dict[str, Any]:
    """What an ONNX file says of itself in metadata_props; empty where it says nothing readable."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for entry in model.metadata_props:
        if entry.key == "lfdeploy":
            told = json.loads(entry.value)
            return told if isinstance(told, dict) else {}
    return {}


def lone_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that does not change with time or place, as it goes into the ONNX file."""
    keys = ("schema", "target", "precision", "input", "outputs", "labels")
    return {key: manifest[key] for key in keys} | {"weights_sha256": manifest["run"]["weights_sha256"]}


def file_checks(artifact: Artifact, run: Run) -> Iterator[Check]:
    """Stage file: the bytes are the manifest's, valid, whole, and say of themselves what the manifest says."""
    manifest = artifact.manifest
    try:
        artifact.check_file()
        yield Check("file", "sha256", manifest["sha256"][:16], manifest["sha256"][:16], True)
    except ParityError as error:
        yield Check("file", "sha256", str(error).removeprefix("stage file: "), "the manifest's", False)
        return
    yield equal("file", "bytes", artifact.file.stat().st_size, manifest.get("bytes"))
    yield equal("file", "weights of the run", manifest["run"]["weights_sha256"], sha256(run.weights))
    if artifact.file.suffix != ".onnx":
        return
    import onnx

    try:
        model = onnx.load(artifact.file, load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
        yield Check("file", "onnx.checker, full", "valid", "valid", True)
    except Exception as error:  # protobuf, shape inference and checker errors are of many kinds
        yield Check("file", "onnx.checker, full", str(error).strip().splitlines()[0][:200], "valid", False)
        return
    outside = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    yield equal("file", "external tensors", len(outside), 0)
    yield equal("file", "opset", {e.domain: e.version for e in model.opset_import}.get(""), manifest.get("opset"))
    told, wanted = embedded(artifact.file), lone_facts(manifest)
    for key in wanted:
        if key not in ("labels", "input"):  # these have stages of their own
            yield equal("file", f"{key} in the ONNX file", told.get(key), wanted[key])


def input_checks(artifact: Artifact, run: Run) -> Iterator[Check]:
    """Stage input: the contract for pixels is that of the run and of this code."""
    wanted = input_of(int(run.spec["image_size"]))
    for key, value in wanted.items():
        yield equal("input", key, artifact.manifest["input"].get(key), value)
    yield equal("input", "resize rule of the run", run.spec["resize"], wanted["resize"])
    if artifact.file.suffix == ".onnx":
        yield equal("input", "contract in the ONNX file", embedded(artifact.file).get("input"), artifact.manifest["input"])


def _graph(path: Path) -> Any:
    import onnx

    return onnx.load(path, load_external_data=False).graph


def name_checks(path: Path) -> Iterator[Check]:
    """Stage names: inputs and outputs of the graph."""
    graph = _graph(path)
    yield equal("names", "inputs", [i.name for i in graph.input], ["images"])
    yield equal("names", "outputs", [o.name for o in graph.output], ["logits", "probabilities"])


def shape_checks(path: Path, manifest: dict[str, Any]) -> Iterator[Check]:
    """Stage shapes: a free batch, fixed sizes, one output per label."""
    graph = _graph(path)
    height, width, classes = manifest["input"]["height"], manifest["input"]["width"], len(manifest["labels"])
    for value, wanted in zip((*graph.input, *graph.output), ([height, width, 3], [classes], [classes]), strict=True):
        dims = value.type.tensor_type.shape.dim
        yield equal("shapes", f"{value.name}, batch", "free" if dims and dims[0].dim_param else "fixed", "free")
        yield equal("shapes", f"{value.name}, rest", [d.dim_value for d in dims[1:]], wanted)


def dtype_checks(path: Path) -> Iterator[Check]:
    """Stage dtypes: uint8 in, fp32 out."""
    import onnx

    graph = _graph(path)
    for value, wanted in zip((*graph.input, *graph.output), ("UINT8", "FLOAT", "FLOAT"), strict=True):
        yield equal("dtypes", value.name, onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type), wanted)


def label_checks(artifact: Artifact, run: Run, subject: Path) -> Iterator[Check]:
    """Stage labels: class names and their order, in the manifest and in the file."""
    manifest = artifact.manifest
    yield equal("labels", "class names", manifest["labels"], run.spec["classes"])
    if subject.suffix == ".onnx":
        yield equal("labels", "class names in the ONNX file", embedded(subject).get("labels"), run.spec["classes"])
