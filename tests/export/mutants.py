"""Planted faults: each takes a healthy published artifact and breaks it in one way that a real
pipeline could.

Unless a fault is about the bytes themselves, the manifest is sealed again over the broken file, so that the
hash cannot help: the gate has to see the fault.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.build.graph import METADATA, in_precision, to_onnx
from export.parity.contract import lone_facts
from lfdeploy.artifact import sealed
from lfdeploy.models.deploy import Classifier
from lfdeploy.run import Run, sha256, write_json


@dataclass(frozen=True)
class Subject:
    """A copy of an artifact that may be broken, and the run it came from."""

    path: Path
    run: Run

    @property
    def file(self) -> Path:
        return self.path / "model.onnx"

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "manifest.json").read_text())
        return found

    def seal(self, **changes: Any) -> None:
        """Make the manifest fit the file again, with changes."""
        manifest = self.manifest | changes
        manifest |= {"sha256": sha256(self.file), "bytes": self.file.stat().st_size}
        write_json(self.path / "manifest.json", sealed(manifest))

    def graph(self, change: Callable[[onnx.ModelProto], None]) -> None:
        model = onnx.load(self.file)
        change(model)
        self.file.write_bytes(model.SerializeToString())
        self.seal()

    def weight(self, change: Callable[[np.ndarray], np.ndarray], which: str = "head") -> None:
        """Change one initializer: the classifier's matrix (head), its bias, or the first wide convolution."""

        def edit(model: onnx.ModelProto) -> None:
            classes = len(self.manifest["labels"])
            for tensor in model.graph.initializer:
                array = numpy_helper.to_array(tensor)
                found = {
                    "head": array.ndim == 2 and classes in array.shape,
                    "bias": array.shape == (classes,),
                    "conv": array.ndim == 4 and array.shape[1] == 16,
                }
                if found[which]:
                    tensor.CopyFrom(
                        numpy_helper.from_array(change(array.copy()).astype(array.dtype), tensor.name)
                    )
                    return
            raise AssertionError(f"no {which} initializer")

        self.graph(edit)

    def export(self, change: Callable[[Classifier], None], precision: str | None = None) -> None:
        """Export the run's module again after a change to it, under the same metadata."""
        manifest = self.manifest
        classifier = copy.deepcopy(self.run.classifier(manifest["target"]))
        change(classifier)
        size = manifest["input"]["height"]
        made = in_precision(classifier, precision or manifest["precision"], size)
        self.file.write_bytes(to_onnx(made, size, (1, 8, 64), lone_facts(manifest)))
        self.seal()


def poke(index: tuple[int, ...], value: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value(float(array[index]))
        return array

    return change


def flip_exponent(array: np.ndarray) -> np.ndarray:
    bits = array.view(np.uint32) if array.dtype == np.float32 else array.view(np.uint16)
    bits[(0,) * bits.ndim] ^= 1 << (26 if array.dtype == np.float32 else 12)
    return array


def swap_classes(subject: Subject) -> None:
    def edit(array: np.ndarray) -> np.ndarray:
        axis = array.shape.index(len(subject.manifest["labels"]))
        order = list(range(array.shape[axis]))
        order[1], order[2] = 2, 1
        return array.take(order, axis=axis)

    subject.weight(edit)
    subject.weight(edit, "bias")


def roll_classes(subject: Subject) -> None:
    def edit(array: np.ndarray) -> np.ndarray:
        return np.roll(array, 1, axis=array.shape.index(len(subject.manifest["labels"])))

    subject.weight(edit)
    subject.weight(edit, "bias")


def statistics(mean: list[float], std: list[float], scale: float = 255.0) -> Callable[[Classifier], None]:
    def change(c: Classifier) -> None:
        m, s = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        c.scale.copy_(1 / (scale * s))
        c.shift.copy_(-m / s)

    return change


class Wrapped(nn.Module):
    """A network behind a change of its input."""

    def __init__(self, network: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(self.change(x))
        return found


def wrap(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Classifier], None]:
    def edit(c: Classifier) -> None:
        c.network = Wrapped(c.network, change)

    return edit


def norms(change: Callable[[nn.BatchNorm2d], None]) -> Callable[[Classifier], None]:
    def edit(c: Classifier) -> None:
        for module in c.modules():
            if isinstance(module, nn.BatchNorm2d):
                change(module)

    return edit


def half_weights(c: Classifier) -> None:
    c.network = c.network.half().float()


def static_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    del model.graph.value_info[:]


def rename(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = [new if n == old else n for n in node.input]
            node.output[:] = [new if n == old else n for n in node.output]
        for value in (*model.graph.input, *model.graph.output):
            if value.name == old:
                value.name = new

    return change


def float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def drop_probabilities(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def half_output(model: onnx.ModelProto) -> None:
    rename("logits", "wide_logits")(model)
    model.graph.output[0].name = "logits"
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.node.append(helper.make_node("Cast", ["wide_logits"], ["logits"], to=TensorProto.FLOAT16))


def second_softmax(model: onnx.ModelProto) -> None:
    rename("probabilities", "first")(model)
    model.graph.output[1].name = "probabilities"
    model.graph.node.append(helper.make_node("Softmax", ["first"], ["probabilities"], axis=1))


def softmax_as_logits(model: onnx.ModelProto) -> None:
    rename("logits", "true_logits")(model)
    model.graph.output[0].name = "logits"
    model.graph.node.append(helper.make_node("Softmax", ["true_logits"], ["logits"], axis=1))


def batch_leak(model: onnx.ModelProto) -> None:
    """Logits centred over the batch: right on average, wrong for every batch of its own."""
    rename("logits", "own")(model)
    model.graph.output[0].name = "logits"
    axes = numpy_helper.from_array(np.array([0]), "batch_axis")
    small = numpy_helper.from_array(np.array(0.01, np.float32), "small")
    model.graph.initializer.extend([axes, small])
    model.graph.node.extend([
        helper.make_node("ReduceMean", ["own", "batch_axis"], ["over_batch"], keepdims=1),
        helper.make_node("Mul", ["over_batch", "small"], ["leak"]),
        helper.make_node("Sub", ["own", "leak"], ["logits"]),
    ])  # fmt: skip


def channels_first(model: onnx.ModelProto) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    sizes = [d.dim_value for d in dims[1:]]
    for dim, size in zip(dims[1:], (sizes[2], sizes[0], sizes[1]), strict=True):
        dim.dim_value = size
    for node in model.graph.node:
        if node.op_type == "Transpose":
            node.op_type = "Identity"
            del node.attribute[:]
    del model.graph.value_info[:]


def lower_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 19


def external(model: onnx.ModelProto) -> None:
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    tensor.ClearField("raw_data")


def cut(keep: float) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        blob = file.read_bytes()
        file.write_bytes(blob[: int(len(blob) * keep)])

    return change


def flip_byte(file: Path) -> None:
    blob = bytearray(file.read_bytes())
    blob[len(blob) // 2] ^= 0x40
    file.write_bytes(blob)


def on_bytes(change: Callable[[Path], None], seal: bool) -> Callable[[Subject], None]:
    def mutate(subject: Subject) -> None:
        change(subject.file)
        if seal:
            subject.seal()

    return mutate


def manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Subject], None]:
    def mutate(subject: Subject) -> None:
        found = subject.manifest
        change(found)
        write_json(subject.path / "manifest.json", sealed(found))

    return mutate


def swap_labels(found: dict[str, Any]) -> None:
    found["labels"][3], found["labels"][5] = found["labels"][5], found["labels"][3]


def swap_labels_everywhere(subject: Subject) -> None:
    manifest(swap_labels)(subject)

    def change(model: onnx.ModelProto) -> None:
        onnx.helper.set_model_props(model, {METADATA: json.dumps(lone_facts(subject.manifest))})

    subject.graph(change)


def other_artifact(name: str, relabel: bool) -> Callable[[Subject], None]:
    """The file of another target under this manifest, its metadata made to fit or not."""

    def mutate(subject: Subject) -> None:
        subject.file.write_bytes((subject.run.artifacts / name / "model.onnx").read_bytes())
        if relabel:
            told = json.dumps(lone_facts(subject.manifest))
            subject.graph(lambda model: onnx.helper.set_model_props(model, {METADATA: told}))
        subject.seal()

    return mutate


def no_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def scaled_channel(array: np.ndarray) -> np.ndarray:
    array[0] *= 1.05
    return array


def zero_channel(array: np.ndarray) -> np.ndarray:
    array[0] = 0
    return array


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["input"].__setitem__(key, value)


def short_mantissa(c: Classifier) -> None:
    c.network = c.network.bfloat16().float()


def eight_bits(c: Classifier) -> None:
    """Weights on 256 levels of each tensor, as a careless quantiser leaves them."""
    for parameter in c.network.parameters():
        step = parameter.detach().abs().max().clamp_min(1e-12) / 127
        parameter.data = (parameter.data / step).round() * step


def noisy_weights(c: Classifier) -> None:
    random = torch.Generator().manual_seed(0)
    for parameter in c.network.parameters():
        parameter.data += 1e-3 * parameter.data.abs().mean() * torch.randn(parameter.shape, generator=random)


def node(model: onnx.ModelProto, kind: str, number: int = 0) -> onnx.NodeProto:
    return [n for n in model.graph.node if n.op_type == kind][number]


def becomes_identity(kind: str) -> Callable[[onnx.ModelProto], None]:
    """One node lets its first input through."""

    def change(model: onnx.ModelProto) -> None:
        found = node(model, kind, 1)
        found.op_type = "Identity"
        del found.input[1:], found.attribute[:]

    return change


def shifted_padding(model: onnx.ModelProto) -> None:
    """A convolution padded at the right and below instead of all around: the map moves by one pixel."""
    found = next(
        n
        for n in model.graph.node
        if n.op_type == "Conv" and any(a.name == "pads" and sum(a.ints) == 4 for a in n.attribute)
    )
    next(a for a in found.attribute if a.name == "pads").ints[:] = [0, 0, 2, 2]


def softmax_over_batch(model: onnx.ModelProto) -> None:
    next(a for a in node(model, "Softmax").attribute if a.name == "axis").i = 0


def after_logits(kind: str, *constants: float) -> Callable[[onnx.ModelProto], None]:
    """Logits behind one more node; the softmax still reads the true ones."""

    def change(model: onnx.ModelProto) -> None:
        rename("logits", "own_logits")(model)
        model.graph.output[0].name = "logits"
        names = [f"extra{i}" for i in range(len(constants))]
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(v, np.float32), n) for v, n in zip(constants, names, strict=True)
        )
        model.graph.node.append(helper.make_node(kind, ["own_logits", *names], ["logits"]))

    return change


def coarse(x: torch.Tensor) -> torch.Tensor:
    small = nn.functional.avg_pool2d(x, 2)
    return nn.functional.interpolate(small, scale_factor=2.0, mode="nearest")


def zoomed(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.interpolate(
        x[:, :, 1:-1, 1:-1], size=x.shape[2:], mode="bilinear", align_corners=False
    )


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

#: name: (stage that must be named, how to break it)
MUTANTS: dict[str, tuple[str, Callable[[Subject], None]]] = {
    "weights: NaN": ("finite", lambda s: s.weight(poke((0, 0), lambda v: float("nan")))),
    "weights: infinity": ("finite", lambda s: s.weight(poke((0, 0, 0, 0), lambda v: float("inf")), "conv")),
    "weights: sign of one": ("values", lambda s: s.weight(poke((0, 0), lambda v: -v))),
    "weights: one conv channel x1.05": ("values", lambda s: s.weight(scaled_channel, "conv")),
    "weights: bias dropped": ("values", lambda s: s.weight(np.zeros_like, "bias")),
    "weights: rounded to half": ("values", lambda s: s.export(half_weights)),
    "weights: two classes swapped": ("labels", swap_classes),
    "weights: another peer, relabelled": ("values", other_artifact("peer1-onnx-fp32", True)),
    "weights: another peer": ("file", other_artifact("peer1-onnx-fp32", False)),
    "weights: a convolution's kernels mirrored": (
        "values",
        lambda s: s.weight(lambda a: a[..., ::-1], "conv"),
    ),
    "norm: running statistics lost": (
        "values",
        lambda s: s.export(norms(nn.BatchNorm2d.reset_running_stats)),
    ),
    "norm: other epsilon": ("values", lambda s: s.export(norms(lambda m: setattr(m, "eps", 1e-3)))),
    "graph: static batch": ("shapes", lambda s: s.graph(static_batch)),
    "graph: NCHW input": ("shapes", lambda s: s.graph(channels_first)),
    "graph: other opset": ("file", lambda s: s.graph(lower_opset)),
    "graph: external weights": ("file", lambda s: s.graph(external)),
    "graph: softmax twice": ("values", lambda s: s.graph(second_softmax)),
    "graph: rows depend on the batch": ("values", lambda s: s.graph(batch_leak)),
    "graph: a ReLU lost": ("values", lambda s: s.graph(becomes_identity("Relu"))),
    "graph: a convolution padded on one side": ("values", lambda s: s.graph(shifted_padding)),
    "graph: a temperature on the logits": ("values", lambda s: s.graph(after_logits("Mul", 0.9))),
    "graph: input renamed": ("names", lambda s: s.graph(rename("images", "input"))),
    "graph: no probabilities": ("names", lambda s: s.graph(drop_probabilities)),
    "graph: half-precision logits": ("dtypes", lambda s: s.graph(half_output)),
    "pixels: divided by 256": ("values", lambda s: s.export(lambda c: c.scale.mul_(255 / 256))),
    "pixels: ImageNet mean and std": ("values", lambda s: s.export(statistics(*IMAGENET))),
    "pixels: BGR": ("values", lambda s: s.export(wrap(lambda x: x.flip(1)))),
    "pixels: height and width swapped": ("values", lambda s: s.export(wrap(lambda x: x.transpose(2, 3)))),
    "pixels: one level darker": ("values", lambda s: s.export(lambda c: c.shift.sub_(c.scale))),
    "pixels: cropped by one and stretched": ("values", lambda s: s.export(wrap(zoomed))),
    "file: one byte flipped": ("file", on_bytes(flip_byte, False)),
    "file: cut in half, sealed": ("file", on_bytes(cut(0.5), True)),
    "file: says nothing of itself": ("file", lambda s: s.graph(no_metadata)),
    "manifest: two labels swapped": ("labels", manifest(swap_labels)),
    "manifest and file: two labels swapped": ("labels", swap_labels_everywhere),
    "manifest: one label short": ("shapes", manifest(lambda m: m["labels"].pop())),
    "manifest: two labels the same": (
        "labels",
        manifest(lambda m: m["labels"].__setitem__(1, m["labels"][0])),
    ),
    "manifest: other outputs": ("file", manifest(lambda m: m["outputs"].reverse())),
    "manifest: other target": ("file", manifest(lambda m: m.update(target="peer1"))),
    "manifest: calls itself fp16": ("file", manifest(lambda m: m.update(precision="fp16"))),
    "manifest: other weights": ("file", manifest(lambda m: m["run"].update(weights_sha256="0" * 64))),
    "manifest: other resize rule": (
        "input",
        manifest(lambda m: m["input"]["resize"].update(interpolation="nearest")),
    ),
    "manifest: other input size": ("input", manifest(_set("height", 24))),
    "manifest: edited by hand": (
        "file",
        lambda s: write_json(s.path / "manifest.json", s.manifest | {"accuracy": None}),
    ),
}


#: Faults in a healthy fp16 artifact; looser bounds must not let them through.
HALF_MUTANTS: dict[str, tuple[str, Callable[[Subject], None]]] = {
    "fp16: one conv channel x1.05": ("values", lambda s: s.weight(scaled_channel, "conv")),
    "fp16: two classes swapped": ("labels", swap_classes),
    "fp16: weights rounded to bf16": ("values", lambda s: s.export(short_mantissa)),
    "fp16: a convolution padded on one side": ("values", lambda s: s.graph(shifted_padding)),
    "fp16: a temperature on the logits": ("values", lambda s: s.graph(after_logits("Mul", 0.99))),
}
