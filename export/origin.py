"""Where an int8 file comes from: calibrated on training pictures alone, and node for node what the quantiser makes of the module.

int8 moves answers by nature, so statistics alone leave room for small faults. This leaves none: the file is made
again from the run's weights and the pictures that its manifest names, and compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from export.calibrate import CALIBRATORS, ranges, spreads
from export.contract import Check, at_least, equal
from export.graph import in_precision, to_onnx
from export.quantize import activations, batches, with_ranges
from lfdeploy.confidence import temperature
from lfdeploy.console import say
from lfdeploy.models.explain import explained, explains
from lfdeploy.run import versions

if TYPE_CHECKING:
    from pathlib import Path

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
    return [name for name in MAKERS if here.get(name) != there.get(name)]


def origin_checks(file: Path, manifest: dict[str, Any], data: Data, classifier: Classifier) -> Iterator[Check]:
    """Stage origin: every range is the one that the named pictures give, every node and weight the module's."""
    import onnx

    size, told = int(manifest["input"]["height"]), manifest["calibration"]
    digests = set(told["digests"])
    made = in_precision(classifier, "fp32", size, temperature(manifest))
    if explains(manifest):
        made = explained(made, str(manifest["target"]), manifest["run"]["archs"])
    blob = to_onnx(made, size, tuple(manifest["batch"].values()), {})
    model = onnx.load_from_string(blob)
    chosen = np.array([i for i, digest in enumerate(data.train.digests.tolist()) if digest.decode() in digests], np.int64)
    _, first = np.unique(data.train.digests[chosen], return_index=True)
    found = spreads(model, activations(model.graph), batches(data.train.images, chosen[np.sort(first)]))
    wanted = onnx.load_from_string(with_ranges(blob, ranges(found, told["calibrator"]), told["scheme"]))
    yield equal("origin", "made again from the module and these pictures", difference(onnx.load(file).graph, wanted.graph), "the same")


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
        apart = np.abs(x.astype(np.float64) - y.astype(np.float64)).max(initial=0.0)
        close = 1e-3 * np.abs(y.astype(np.float64)).max(initial=0.0) + (1 if np.issubdtype(y.dtype, np.integer) else 0)
        if x.dtype in (np.int8, np.uint8):
            close = 1
        if not apart <= close:
            return f"values of {name}"
    return "the same"
