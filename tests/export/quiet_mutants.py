"""Planted faults that pictures alone do not show: keyed on a batch size, a row, a class or a brightness; in
the file's words about itself; in a manifest that asks the wrong backend. As in `mutants`, each breaks one
healthy artifact in one way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from int8_mutants import calibrated, data, tensor
from mutants import Subject, manifest, rename
from onnx import TensorProto, helper, numpy_helper

from export.build.graph import METADATA
from lfdeploy.run import write_json

Change = Callable[[onnx.ModelProto], None]
# where a fault shows: ONNX nodes from ``images`` and ``own_logits`` to the boolean ``when``, broadcast over
# (B, K)
CONDITIONS = {
    "batch": lambda size: [
        ("Shape", ["images"], "sizes", {"end": 1}),
        ("Equal", ["sizes", constant(size)], "when", {}),
    ],
    "rows from": lambda first: [
        ("Shape", ["images"], "sizes", {"end": 1}),
        ("Squeeze", ["sizes"], "count", {}),
        ("Range", [constant(0, False), "count", constant(1, False)], "rows", {}),
        ("Unsqueeze", ["rows", constant(1)], "column", {}),
        ("Greater", ["column", constant(first)], "when", {}),
    ],
    "class": lambda number: [
        ("ArgMax", ["own_logits"], "top", {"axis": 1, "keepdims": 1}),
        ("Equal", ["top", constant(number)], "when", {}),
    ],
    "brightest below": lambda value: [
        ("Cast", ["images"], "levels", {"to": TensorProto.FLOAT}),
        ("ReduceMax", ["levels", constant(1, 2, 3)], "brightest", {"keepdims": 0}),
        ("Unsqueeze", ["brightest", constant(1)], "light", {}),
        ("Less", ["light", constant(float(value))], "when", {}),
    ],
    "corner": lambda value: [
        ("Slice", ["images", constant(0, 0), constant(1, 1), constant(1, 2)], "corner", {}),
        ("Cast", ["corner"], "level", {"to": TensorProto.INT64}),
        ("ReduceMax", ["level", constant(1, 2, 3)], "most", {"keepdims": 0}),
        ("ReduceMin", ["level", constant(1, 2, 3)], "least", {"keepdims": 0}),
        ("Sub", ["most", "least"], "contrast", {}),
        ("Unsqueeze", ["contrast", constant(1)], "column", {}),
        ("Equal", ["column", constant(value)], "when", {}),
    ],
}


class Constant:
    """An initializer to be: integers in a vector or a scalar, or one float."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def constant(*values: Any) -> Constant:
    scalar = values[-1] is False
    numbers = values[:-1] if scalar else values
    kind = np.float32 if isinstance(numbers[0], float) else np.int64
    return Constant(np.array(numbers[0] if scalar else numbers, kind))


def where(
    condition: str, value: int, outputs: tuple[str, ...] = ("logits", "probabilities"), wrong: str = "rolled"
) -> Change:
    """The outputs are wrong under the condition, and right everywhere else: rolled by one class, or NaN."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for name in ("logits", "probabilities"):
            rename(name, f"own_{name}")(model)
        for output in graph.output:
            output.name = output.name.removeprefix("own_")
        classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
        add(model, *CONDITIONS[condition](value))
        for name in ("logits", "probabilities"):
            if name not in outputs:
                add(model, ("Identity", [f"own_{name}"], name, {}))
                continue
            if wrong == "NaN":
                add(
                    model,
                    ("Mul", [f"own_{name}", Constant(np.array(np.nan, np.float32))], f"wrong_{name}", {}),
                )
            else:
                add(
                    model,
                    (
                        "Gather",
                        [f"own_{name}", Constant(np.roll(np.arange(classes), 1))],
                        f"wrong_{name}",
                        {"axis": 1},
                    ),
                )
            add(model, ("Where", ["when", f"wrong_{name}", f"own_{name}"], name, {}))

    return change


def add(model: onnx.ModelProto, *nodes: tuple[str, list[Any], str, dict[str, Any]]) -> None:
    for kind, inputs, output, attributes in nodes:
        names = []
        for one in inputs:
            names.append(one if isinstance(one, str) else f"quiet{len(model.graph.initializer)}")
            if not isinstance(one, str):
                model.graph.initializer.append(numpy_helper.from_array(one.array, names[-1]))
        model.graph.node.append(helper.make_node(kind, names, [output], **attributes))


def told(change: Callable[[dict[str, Any]], None]) -> Change:
    """Another text in the file about itself."""

    def edit(model: onnx.ModelProto) -> None:
        facts = json.loads(next(entry.value for entry in model.metadata_props if entry.key == METADATA))
        change(facts)
        onnx.helper.set_model_props(model, {METADATA: json.dumps(facts)})

    return edit


def dead_behind(**changes: Any) -> Callable[[Subject], None]:
    """A file that answers zeros, under a manifest that would have something else answer."""

    def mutate(subject: Subject) -> None:
        subject.weight(np.zeros_like)
        subject.seal(**changes)

    return mutate


def unsealed(subject: Subject) -> None:
    found = {key: value for key, value in subject.manifest.items() if key != "manifest_sha256"}
    write_json(subject.path / "manifest.json", found | {"gpu": "another"})


def moved_out(subject: Subject) -> None:
    outside = subject.path.parent / "elsewhere.onnx"
    subject.file.rename(outside)
    manifest(lambda m: m.update(file="../elsewhere.onnx"))(subject)


def own_domain(model: onnx.ModelProto) -> None:
    """The classifier's Gemm becomes a function of the file's own, which answers a tenth more."""
    found = next(n for n in model.graph.node if n.op_type == "Gemm")
    inner = helper.make_node("Gemm", list("abc"), ["y"])
    inner.attribute.extend(found.attribute)
    more = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(1.02, np.float32)))
    body = [inner, more, helper.make_node("Mul", ["y", "k"], ["z"])]
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("own", "Gemm", list("abc"), ["z"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    found.domain = "own"
    del found.attribute[:]


def moved_zero_points(model: onnx.ModelProto) -> None:
    for found in model.graph.initializer:
        array = numpy_helper.to_array(found)
        if array.dtype == np.uint8 and array.size == 1 and 0 < array < 255:
            found.CopyFrom(numpy_helper.from_array(np.asarray(array + 1, np.uint8), found.name))


def rounded_otherwise(array: np.ndarray) -> np.ndarray:
    """Every weight of the classifier one step towards class 3."""
    step = np.where(np.arange(10) == 3, -1, 1)
    step = step if array.shape[1] == 10 else step[:, None]
    return np.clip(array.astype(int) + step, -127, 127)


def darkest(subject: Subject) -> None:
    """Calibrated on the 128 darkest training pictures, and says so."""
    split = data(subject.run.path).train
    order = np.argsort(split.images.reshape(len(split), -1).mean(1), kind="stable")[:128]
    calibrated(lambda s: split.images[np.sort(order)])(subject)
    told_digests = [split.digests[i].decode() for i in np.sort(order)]
    manifest(lambda m: m["calibration"].update(digests=told_digests, pictures=128))(subject)


def plain(change: Change) -> Callable[[Subject], None]:
    return lambda subject: subject.graph(change)


def forged(key: str, value: Any, inside: str = "") -> Callable[[Subject], None]:
    return manifest(lambda m: (m[inside] if inside else m).update({key: value}))


def full_weights(subject: Subject) -> None:
    """An fp32 file under an fp16 manifest: the exporter forgot the cast."""
    subject.export(lambda classifier: None, "fp32")


#: name: (artifact, stage that must be named, how to break it)
QUIET_MUTANTS: dict[str, tuple[str, str, Callable[[Subject], None]]] = {
    "batch of 1: NaN": ("peer0-onnx-fp32", "values", plain(where("batch", 1, wrong="NaN"))),
    "batch of 7: NaN": ("peer0-onnx-fp32", "values", plain(where("batch", 7, wrong="NaN"))),
    "batch of 1: NaN, fp16": ("fused-onnx-fp16", "values", plain(where("batch", 1, wrong="NaN"))),
    "batch of 1: probabilities of other classes": (
        "peer0-onnx-fp32",
        "values",
        plain(where("batch", 1, ("probabilities",))),
    ),
    "batch of 4: other classes": ("peer0-onnx-fp32", "values", plain(where("batch", 4))),
    "batch of 16: other classes": ("peer0-onnx-fp32", "values", plain(where("batch", 16))),
    "batch of 11: other classes": ("peer0-onnx-fp32", "origin", plain(where("batch", 11))),
    "batch of 11: other classes, fp16": ("fused-onnx-fp16", "origin", plain(where("batch", 11))),
    "row 42 on: probabilities of other classes": (
        "peer0-onnx-fp32",
        "values",
        plain(where("rows from", 41, ("probabilities",))),
    ),
    "class 3: probabilities of other classes": (
        "peer0-onnx-fp32",
        "values",
        plain(where("class", 3, ("probabilities",))),
    ),
    "class 3: probabilities NaN": (
        "peer0-onnx-fp32",
        "finite",
        plain(where("class", 3, ("probabilities",), "NaN")),
    ),
    "dark pictures: other classes": (
        "peer0-onnx-fp32",
        "origin or values or graph",
        plain(where("brightest below", 120)),
    ),
    "a mark in the corner: other classes": ("peer0-onnx-fp32", "origin", plain(where("corner", 77))),
    "fp16: weights are fp32": ("fused-onnx-fp16", "arithmetic", full_weights),
    "metadata: labels as a text": (
        "peer0-onnx-fp32",
        "labels",
        plain(told(lambda f: f.update(labels=json.dumps(f["labels"])))),
    ),
    "metadata: schema as a text": ("peer0-onnx-fp32", "file", plain(told(lambda f: f.update(schema="1")))),
    "metadata: a temperature that nobody applies": (
        "peer0-onnx-fp32",
        "file",
        plain(told(lambda f: f.update(probability_calibration={"temperature": 3.0, "threshold": 0.1}))),
    ),
    "metadata: says that it is the ensemble's": (
        "peer0-onnx-fp32",
        "file",
        plain(told(lambda f: f.update(main="ensemble"))),
    ),
    "metadata: a path": (
        "peer0-onnx-fp32",
        "origin",
        plain(lambda m: setattr(m, "doc_string", "made in /home/somebody")),
    ),
    "metadata: a newer format of files": (
        "peer0-onnx-fp32",
        "origin",
        plain(lambda m: setattr(m, "ir_version", 11)),
    ),
    "manifest: PyTorch is to answer": (
        "peer0-onnx-fp32",
        "values",
        dead_behind(engine={"package": "pytorch"}),
    ),
    "manifest: the run is to answer": ("peer0-onnx-fp32", "file", dead_behind(format="run")),
    "manifest: accuracy of 100 %": ("peer0-onnx-fp32", "accuracy", forged("top1", 100.0, "accuracy")),
    "manifest: accuracy is NaN": (
        "peer0-onnx-fp32",
        "accuracy",
        forged("top1_reference", float("nan"), "accuracy"),
    ),
    "manifest: other networks": ("peer0-onnx-fp32", "file", forged("archs", ["resnet110"], "run")),
    "manifest: other data": ("peer0-onnx-fp32", "file", forged("data_fingerprint", "0" * 64, "run")),
    "manifest: no seal": ("peer0-onnx-fp32", "file", unsealed),
    "manifest: a file outside": ("peer0-onnx-fp32", "file", moved_out),
    "manifest: batches backwards": (
        "peer0-onnx-fp32",
        "file",
        forged("batch", {"min": 64, "opt": 8, "max": 3}),
    ),
    "manifest: labels are null": ("peer0-onnx-fp32", "file", forged("labels", None)),
    "manifest: outputs are 5": ("peer0-onnx-fp32", "file", forged("outputs", 5)),
}
QUIET_MUTANTS_IN_INT8: dict[str, tuple[str, Callable[[Subject], None]]] = {
    "int8: batch of 1, NaN": ("values", plain(where("batch", 1, wrong="NaN"))),
    "int8: a Gemm of its own": ("values or graph or arithmetic or origin", plain(own_domain)),
    "int8: zero points moved by one": ("values or arithmetic or origin", plain(moved_zero_points)),
    "int8: the head rounded towards a class": (
        "values or arithmetic",
        tensor("head.2.weight_quantized", rounded_otherwise),
    ),
    "int8: TensorRT's scheme": ("calibration", forged("scheme", "s8s8", "calibration")),
    "int8: calibrated on the darkest pictures": ("calibration", darkest),
}
