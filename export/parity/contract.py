"""The static half of the parity gate: what a file and its manifest say, before anything is executed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export.numbers.check import Check, Unexamined, equal
from lfdeploy import familiarity
from lfdeploy.artifact import Artifact, input_of
from lfdeploy.backends import BACKENDS, executes
from lfdeploy.backends.facts import Facts
from lfdeploy.confidence import KEY, temperature, threshold
from lfdeploy.errors import ParityError
from lfdeploy.run import Run, sha256

Outputs = list[dict[str, Any]]  # as in a manifest


def lone_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that does not change with time or place, as it goes into the file itself."""
    keys = ("schema", "target", "precision", "input", "outputs", "labels")
    facts = {key: manifest[key] for key in keys} | {"weights_sha256": manifest["run"]["weights_sha256"]}
    facts |= {"main": manifest["main"]} if "main" in manifest else {}
    if temperature(manifest) is None:
        return facts
    return facts | {KEY: {"temperature": temperature(manifest), "threshold": threshold(manifest)}}


def file_checks(artifact: Artifact, run: Run) -> Iterator[Check]:
    """Stage file: the bytes are the manifest's, valid and whole."""
    manifest = artifact.manifest
    try:
        artifact.check_file()
        yield Check("file", "sha256", manifest["sha256"][:16], manifest["sha256"][:16], True)
    except ParityError as error:
        yield Check("file", "sha256", str(error).removeprefix("stage file: "), "the manifest's", False)
        return
    yield equal(
        "file",
        "bytes",
        sum((artifact.path / name).stat().st_size for name in artifact.hashes),
        manifest.get("bytes"),
    )
    row = BACKENDS[executes(manifest)]
    yield equal(
        "file",
        "files",
        [manifest["file"], *sorted(manifest.get("files", {}))],
        [row.file, *sorted(row.extra)],
    )
    told = {"weights_sha256": sha256(run.weights)} | {
        key: run.spec[key] for key in ("method", "archs", "data_fingerprint")
    }
    for key, value in told.items():
        yield equal("file", f"{key} of the run", manifest["run"].get(key), value)
    source = artifact.path / "source.onnx"
    if source.exists() and "engine" in manifest:
        yield equal(
            "file",
            "sha256 of the ONNX file it was built from",
            sha256(source),
            manifest["engine"]["source_sha256"],
        )
    if artifact.file.suffix == ".onnx":
        yield from _onnx_checks(artifact.file, manifest)


def word_checks(manifest: dict[str, Any], facts: Facts) -> Iterator[Check | Unexamined]:
    """Stage file: a lone file says of itself what the manifest says."""
    if facts.told is None:
        yield Unexamined("file", f"an {facts.kind} has no words of its own for target, labels and input")
        return
    words = lone_facts(manifest)
    yield equal("file", f"keys in the {facts.kind}", sorted(facts.told), sorted(words))
    for key, value in words.items():
        if key not in ("labels", "input"):  # these have stages of their own
            yield equal("file", f"{key} in the {facts.kind}", facts.told.get(key), value)


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
    yield equal(
        "file", "opset", {e.domain: e.version for e in model.opset_import}.get(""), manifest.get("opset")
    )


def input_checks(artifact: Artifact, run: Run, facts: Facts | None) -> Iterator[Check]:
    """Stage input: the contract for pixels is that of the run and of this code."""
    contract = input_of(int(run.spec["image_size"]))
    for key, value in contract.items():
        yield equal("input", key, artifact.manifest["input"].get(key), value)
    yield equal("input", "resize rule of the run", run.spec["resize"], contract["resize"])
    manifest = artifact.manifest
    known = familiarity.of_run(run, str(manifest.get("main", manifest["target"])))
    if known or familiarity.KEY in manifest:
        told = [block.get(familiarity.KEY) for block in (manifest, known)]
        yield equal("input", "familiarity, as training found it", *told)
    if facts is not None and facts.told is not None:
        yield equal(
            "input", f"contract in the {facts.kind}", facts.told.get("input"), artifact.manifest["input"]
        )


def name_checks(facts: Facts, outputs: Outputs) -> Iterator[Check]:
    """Stage names: inputs and outputs of the graph."""
    yield equal("names", "inputs", [v.name for v in facts.inputs], ["images"])
    yield equal("names", "outputs", [v.name for v in facts.outputs], [o["name"] for o in outputs])


def shape_checks(facts: Facts, manifest: dict[str, Any], outputs: Outputs) -> Iterator[Check]:
    """Stage shapes: a free batch, fixed sizes."""
    pixels = [manifest["input"]["height"], manifest["input"]["width"], 3]
    sizes = (pixels, *(o["shape"][1:] for o in outputs))
    for value, size in zip((*facts.inputs, *facts.outputs), sizes, strict=True):
        yield equal("shapes", f"{value.name}, batch", "free" if value.free_batch else "fixed", "free")
        yield equal("shapes", f"{value.name}, rest", list(value.rest), size)


def dtype_checks(facts: Facts, outputs: Outputs) -> Iterator[Check]:
    """Stage dtypes: uint8 in, fp32 out."""
    dtypes = ("uint8", *(o["dtype"] for o in outputs))
    for value, dtype in zip((*facts.inputs, *facts.outputs), dtypes, strict=True):
        yield equal("dtypes", value.name, value.dtype, dtype)


def label_checks(artifact: Artifact, run: Run, facts: Facts | None) -> Iterator[Check]:
    """Stage labels: class names and their order, in the manifest and in the file."""
    yield equal("labels", "class names", artifact.manifest["labels"], run.spec["classes"])
    if facts is not None and facts.told is not None:
        yield equal(
            "labels", f"class names in the {facts.kind}", facts.told.get("labels"), run.spec["classes"]
        )
