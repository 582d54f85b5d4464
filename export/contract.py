"""The static half of the parity gate: what a file and its manifest say, before anything is executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.inside import inside
from lfdeploy.artifact import Artifact, input_of
from lfdeploy.backends import BACKENDS, executes
from lfdeploy.confidence import KEY, temperature, threshold
from lfdeploy.errors import ParityError
from lfdeploy.run import Run, sha256

Outputs = list[dict[str, Any]]  # as in a manifest


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
    """Passes when both are the same JSON value; the text "5" is not the number 5."""
    a, b = (x if isinstance(x, str) else json.dumps(x, ensure_ascii=False, sort_keys=True) for x in (found, wanted))
    return Check(stage, name, a[:200], b[:200], a == b and isinstance(found, str) == isinstance(wanted, str))


def lone_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that does not change with time or place, as it goes into the file itself."""
    keys = ("schema", "target", "precision", "input", "outputs", "labels")
    facts = {key: manifest[key] for key in keys} | {"weights_sha256": manifest["run"]["weights_sha256"]}
    facts |= {"main": manifest["main"]} if "main" in manifest else {}
    if temperature(manifest) is None:
        return facts
    return facts | {KEY: {"temperature": temperature(manifest), "threshold": threshold(manifest)}}


def file_checks(artifact: Artifact, run: Run) -> Iterator[Check]:
    """Stage file: the bytes are the manifest's, valid, whole, and say of themselves what the manifest says."""
    manifest = artifact.manifest
    try:
        artifact.check_file()
        yield Check("file", "sha256", manifest["sha256"][:16], manifest["sha256"][:16], True)
    except ParityError as error:
        yield Check("file", "sha256", str(error).removeprefix("stage file: "), "the manifest's", False)
        return
    yield equal("file", "bytes", sum((artifact.path / name).stat().st_size for name in artifact.hashes), manifest.get("bytes"))
    row = BACKENDS[executes(manifest)]
    yield equal("file", "files", [manifest["file"], *sorted(manifest.get("files", {}))], [row.file, *sorted(row.extra)])
    told = {"weights_sha256": sha256(run.weights)} | {key: run.spec[key] for key in ("method", "archs", "data_fingerprint")}
    for key, value in told.items():
        yield equal("file", f"{key} of the run", manifest["run"].get(key), value)
    source = artifact.path / "source.onnx"
    if source.exists() and "engine" in manifest:
        yield equal("file", "sha256 of the ONNX file it was built from", sha256(source), manifest["engine"]["source_sha256"])
    if artifact.file.suffix == ".onnx":
        found = list(_onnx_checks(artifact.file, manifest))
        yield from found
        if not all(check.passed for check in found):
            return
    facts = inside(artifact.file)
    if facts is None:
        return
    wanted = lone_facts(manifest)
    yield equal("file", f"keys in the {facts.kind}", sorted(facts.told), sorted(wanted))
    for key in wanted:
        if key not in ("labels", "input"):  # these have stages of their own
            yield equal("file", f"{key} in the {facts.kind}", facts.told.get(key), wanted[key])


def _onnx_checks(path: Path, manifest: dict[str, Any]) -> Iterator[Check]:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
        yield Check("file", "onnx.checker, full", "valid", "valid", True)
    except Exception as error:  # protobuf, shape inference and checker errors are of many kinds
        yield Check("file", "onnx.checker, full", str(error).strip().splitlines()[0][:200], "valid", False)
        return
    outside = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    yield equal("file", "external tensors", len(outside), 0)
    yield equal("file", "opset", {e.domain: e.version for e in model.opset_import}.get(""), manifest.get("opset"))


def input_checks(artifact: Artifact, run: Run) -> Iterator[Check]:
    """Stage input: the contract for pixels is that of the run and of this code."""
    wanted = input_of(int(run.spec["image_size"]))
    for key, value in wanted.items():
        yield equal("input", key, artifact.manifest["input"].get(key), value)
    yield equal("input", "resize rule of the run", run.spec["resize"], wanted["resize"])
    facts = inside(artifact.file)
    if facts:
        yield equal("input", f"contract in the {facts.kind}", facts.told.get("input"), artifact.manifest["input"])


def name_checks(path: Path, outputs: Outputs) -> Iterator[Check]:
    """Stage names: inputs and outputs of the graph."""
    facts = inside(path)
    if facts is None:
        return
    yield equal("names", "inputs", [v.name for v in facts.inputs], ["images"])
    yield equal("names", "outputs", [v.name for v in facts.outputs], [o["name"] for o in outputs])


def shape_checks(path: Path, manifest: dict[str, Any], outputs: Outputs) -> Iterator[Check]:
    """Stage shapes: a free batch, fixed sizes."""
    facts = inside(path)
    if facts is None:
        return
    pixels = [manifest["input"]["height"], manifest["input"]["width"], 3]
    for value, wanted in zip((*facts.inputs, *facts.outputs), (pixels, *(o["shape"][1:] for o in outputs)), strict=True):
        yield equal("shapes", f"{value.name}, batch", "free" if value.free_batch else "fixed", "free")
        yield equal("shapes", f"{value.name}, rest", list(value.rest), wanted)


def dtype_checks(path: Path, outputs: Outputs) -> Iterator[Check]:
    """Stage dtypes: uint8 in, fp32 out."""
    facts = inside(path)
    if facts is None:
        return
    for value, wanted in zip((*facts.inputs, *facts.outputs), ("uint8", *(o["dtype"] for o in outputs)), strict=True):
        yield equal("dtypes", value.name, value.dtype, wanted)


def label_checks(artifact: Artifact, run: Run, subject: Path) -> Iterator[Check]:
    """Stage labels: class names and their order, in the manifest and in the file."""
    yield equal("labels", "class names", artifact.manifest["labels"], run.spec["classes"])
    facts = inside(subject)
    if facts:
        yield equal("labels", f"class names in the {facts.kind}", facts.told.get("labels"), run.spec["classes"])
