"""Where an int8 file comes from: calibrated on training pictures alone, and node for node what the quantiser makes of the module.

int8 moves answers by nature, so statistics alone leave room for small faults. This leaves none: the file is made
again from the run's weights and the pictures that its manifest names, and compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.calibrate import CALIBRATORS, ranges, spreads
from export.contract import Check, at_least, equal
from export.graph import in_precision, to_onnx, trace
from export.quantize import activations, batches, with_ranges
from lfdeploy.backends import BACKENDS, Material, executes
from lfdeploy.backends.openvino import read_ir
from lfdeploy.confidence import temperature
from lfdeploy.console import say
from lfdeploy.models.explain import explained, explains
from lfdeploy.run import versions

if TYPE_CHECKING:
    from lfdeploy.data import Data
    from lfdeploy.models.deploy import Classifier

FEWEST = 128
MAKERS = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")


def calibration_checks(manifest: dict[str, Any], data: Data, same_data: bool) -> Iterator[Check]:
    """Stage calibration: enough pictures, all of the training split, none of the test split."""
    told = manifest["calibration"]
    digests = set(told["digests"])
    yield equal("calibration", "split", told["split"], "train")
    yield equal("calibration", "calibrator", told["calibrator"] if told["calibrator"] in CALIBRATORS else "unknown", told["calibrator"])
    yield at_least("calibration", "pictures", len(digests), min(FEWEST, len(np.unique(data.train.digests)) // 2))
    yield equal("calibration", "pictures shared with the test split", len(digests & _names(data.test.digests)), 0)
    if same_data:
        yield equal("calibration", "pictures outside the training split", len(digests - _names(data.train.digests)), 0)
    else:
        say("Where the calibration came from is not examined: these are other pictures than the run's.")


def other_versions(manifest: dict[str, Any]) -> list[str]:
    """Makers of the graph that are installed here in another version than made it: then it cannot be made again to compare."""
    here, there = versions(), manifest["versions"]
    makers = (*MAKERS, "openvino") if manifest["format"] == "openvino" else MAKERS
    return [name for name in makers if here.get(name) != there.get(name)]


def origin_checks(file: Path, manifest: dict[str, Any], data: Data, classifier: Classifier) -> Iterator[Check]:
    """Stage origin: every range is the one that the named pictures give, every node and weight the module's."""
    import onnx

    size, told = int(manifest["input"]["height"]), manifest["calibration"]
    digests = set(told["digests"])
    made = in_precision(classifier, "fp32", size, temperature(manifest))
    if explains(manifest):
        made = explained(made, str(manifest["target"]), manifest["run"]["archs"])
    profile = tuple(manifest["batch"].values())
    blob = to_onnx(made, size, profile, {})
    model = onnx.load_from_string(blob)
    chosen = np.array([i for i, digest in enumerate(data.train.digests.tolist()) if digest.decode() in digests], np.int64)
    _, first = np.unique(data.train.digests[chosen], return_index=True)
    found = spreads(model, activations(model.graph), batches(data.train.images, chosen[np.sort(first)]))
    wanted = with_ranges(blob, ranges(found, told["calibrator"]), told["scheme"])
    if file.suffix == ".onnx":
        apart = difference(onnx.load(file).graph, onnx.load_from_string(wanted).graph)
    else:
        apart = _from_ir(file, manifest, Material(Path(), profile, lambda: trace(made, size, profile), {}), wanted)
    yield equal("origin", "made again from the module and these pictures", apart, "the same")


def _from_ir(file: Path, manifest: dict[str, Any], material: Material, wanted: bytes) -> str:
    """`ir_difference` between a file and what its backend makes of the ONNX bytes ``wanted``."""
    row = BACKENDS[executes(manifest)]
    assert row.build is not None
    with tempfile.TemporaryDirectory() as folder:
        again = replace(material, onnx=Path(folder) / "source.onnx")
        again.onnx.write_bytes(wanted)
        row.build(again, Path(folder) / row.file)
        return ir_difference(read_ir(file), read_ir(Path(folder) / row.file))


def _names(digests: Any) -> set[str]:
    return {digest.decode() for digest in digests.tolist()}


def difference(found: Any, wanted: Any) -> str:
    """The first thing that differs between two graphs, or "the same". Ranges may differ by a thousandth, integers by 1."""
    from onnx import numpy_helper

    tensors = [{t.name: t for t in graph.initializer} for graph in (found, wanted)]
    if len(found.node) != len(wanted.node):
        return f"{len(found.node)} nodes where {len(wanted.node)} belong"
    for a, b in zip(found.node, wanted.node, strict=True):
        if (a.op_type, list(a.input), list(a.output)) != (b.op_type, list(b.input), list(b.output)):
            return f"node {a.name or a.op_type} where {b.name or b.op_type} belongs"
        attributes = [sorted(x.SerializeToString(deterministic=True) for x in node.attribute) for node in (a, b)]
        if attributes[0] != attributes[1]:
            return f"attributes of {a.name}"
    if set(tensors[0]) != set(tensors[1]):
        return f"tensor {sorted(set(tensors[0]) ^ set(tensors[1]))[0]}"
    for name in tensors[0]:
        x, y = (numpy_helper.to_array(side[name]) for side in tensors)
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"shape or type of {name}"
        if not _close(x, y):
            return f"values of {name}"
    return "the same"


def ir_difference(found: Any, wanted: Any) -> str:
    """The first thing that differs between two `openvino.Model`, or "the same", with the tolerance of `difference`."""
    sides = [model.get_ordered_ops() for model in (found, wanted)]
    if len(sides[0]) != len(sides[1]):
        return f"{len(sides[0])} operations where {len(sides[1])} belong"
    places = [{op.get_friendly_name(): i for i, op in enumerate(side)} for side in sides]
    for ops in zip(*sides, strict=True):
        name = ops[1].get_friendly_name()
        if ops[0].get_type_name() != ops[1].get_type_name():
            return f"operation {ops[0].get_friendly_name()} where {name} belongs"
        inputs = [
            [place[v.get_source_output().get_node().get_friendly_name()] for v in op.inputs()]
            for place, op in zip(places, ops, strict=True)
        ]
        if inputs[0] != inputs[1]:
            return f"inputs of {name}"
        if ops[0].get_type_name() == "Constant":
            x, y = (op.get_data() for op in ops)
            if x.shape != y.shape or x.dtype != y.dtype:
                return f"shape or type of {name}"
            if not _close(x, y):
                return f"values of {name}"
        elif str(ops[0].get_attributes()) != str(ops[1].get_attributes()):
            return f"attributes of {name}"
    return "the same"


def _close(x: Any, y: Any) -> bool:
    """Whether a tensor is the one that belongs: within a thousandth of its largest value, a bias (int32) within 1 besides,
    weights (int8) within 1; axes and shapes (int64) exactly."""
    if x.dtype == np.int64:
        return np.array_equal(x, y)
    apart = np.abs(x.astype(np.float64) - y.astype(np.float64)).max(initial=0.0)
    if x.dtype in (np.int8, np.uint8):
        return bool(apart <= 1)
    return bool(apart <= 1e-3 * np.abs(y.astype(np.float64)).max(initial=0.0) + (1 if np.issubdtype(y.dtype, np.integer) else 0))
