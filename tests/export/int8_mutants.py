"""Planted faults of int8: calibration on the wrong pictures, ranges, weights, and what int8's looser bounds
could let through.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from mutants import (
    Subject,
    after_logits,
    manifest,
    node,
    poke,
)
from onnx import numpy_helper

from export.build.graph import in_precision, to_onnx
from export.build.quantize import activations, batches, pick, with_ranges
from export.build.ranges import Ranges, Spread, ranges, spreads
from export.parity.contract import lone_facts
from lfdeploy.data import Data
from lfdeploy.images import Pixels
from lfdeploy.models.deploy import Classifier
from lfdeploy.run import Run

Fault = tuple[str, Callable[[Subject], None]]


@cache
def data(path: Path) -> Data:
    return Run(path).data()


def float_file(subject: Subject, change: Callable[[Classifier], None] = lambda c: None) -> bytes:
    told = subject.manifest
    classifier = copy.deepcopy(subject.run.classifier(told["target"]))
    change(classifier)
    size = told["input"]["height"]
    return to_onnx(in_precision(classifier, "fp32", size), size, (1, 8, 64), lone_facts(told))


def measured(blob: bytes, pictures: Pixels) -> dict[str, Spread]:
    model = onnx.load_from_string(blob)
    return spreads(model, activations(model.graph), batches(pictures, np.arange(len(pictures))))


def write(subject: Subject, blob: bytes, found: Ranges, **told: object) -> None:
    subject.file.write_bytes(with_ranges(blob, found, "u8s8"))
    subject.seal(calibration=subject.manifest["calibration"] | told)


def train(subject: Subject) -> Pixels:
    pictures = data(subject.run.path)
    return np.asarray(pictures.train.images[pick(pictures).calibration])


def calibrated(pictures: Callable[[Subject], Pixels], **told: object) -> Callable[[Subject], None]:
    """Ranges of other pictures than the manifest says."""

    def mutate(subject: Subject) -> None:
        blob = float_file(subject)
        write(
            subject,
            blob,
            ranges(measured(blob, pictures(subject)), subject.manifest["calibration"]["calibrator"]),
            **told,
        )

    return mutate


def told_few(subject: Subject) -> None:
    calibrated(lambda s: train(s)[:8])(subject)
    manifest(lambda m: m["calibration"].update(digests=m["calibration"]["digests"][:8], pictures=8))(subject)


def told_test(subject: Subject) -> None:
    test = data(subject.run.path).test
    calibrated(lambda s: np.asarray(test.images[:256]))(subject)
    manifest(
        lambda m: m["calibration"].update(
            digests=[d.decode() for d in test.digests[:256].tolist()], pictures=256
        )
    )(subject)


def told_others(subject: Subject) -> None:
    manifest(lambda m: m["calibration"].update(digests=[f"{i:016x}" for i in range(512)]))(subject)


def ranged(change: Callable[[str, float, float], tuple[float, float]]) -> Callable[[Subject], None]:
    """The right pictures, other ranges."""

    def mutate(subject: Subject) -> None:
        blob = float_file(subject)
        found = ranges(measured(blob, train(subject)), subject.manifest["calibration"]["calibrator"])
        write(subject, blob, {name: change(name, low, high) for name, (low, high) in found.items()})

    return mutate


def module(change: Callable[[Classifier], None]) -> Callable[[Subject], None]:
    """A changed module, quantised as it should be."""

    def mutate(subject: Subject) -> None:
        blob = float_file(subject, change)
        write(
            subject,
            blob,
            ranges(measured(blob, train(subject)), subject.manifest["calibration"]["calibrator"]),
        )

    return mutate


def tensor(
    part: str, change: Callable[[np.ndarray], np.ndarray], number: int = 0
) -> Callable[[Subject], None]:
    """One initializer by a part of its name."""

    def edit(model: onnx.ModelProto) -> None:
        found = [t for t in model.graph.initializer if part in t.name][number]
        array = numpy_helper.to_array(found)
        found.CopyFrom(numpy_helper.from_array(change(array.copy()).astype(array.dtype), found.name))

    return lambda subject: subject.graph(edit)


def noise(subject: Subject) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, train(subject).shape, dtype=np.uint8)


def four_bits(c: Classifier) -> None:
    for parameter in c.network.parameters():
        step = parameter.detach().abs().max().clamp_min(1e-12) / 7
        parameter.data = (parameter.data / step).round() * step


def shrink(c: Classifier) -> None:
    head = [m for m in c.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    head.weight.data *= 0.93
    head.bias.data *= 0.93


def other_maker(told: dict[str, Any]) -> None:
    """Stage origin cannot make the file again then; the bounds for differences are the narrow ones."""
    told["versions"] |= {name: "0.1" for name in told["versions"] if name.startswith("onnxruntime")}


def swap(array: np.ndarray) -> np.ndarray:
    return array[[0, 2, 1, *range(3, len(array))]]


def swap_classes(subject: Subject) -> None:
    for part in ("head.2.weight_quantized", "head.2.weight_scale", "head.2.bias_quantized"):
        tensor(part, swap)(subject)


def lose_bias(subject: Subject) -> None:
    tensor("head.2.bias_quantized", np.zeros_like)(subject)


def flip_rounding(model: onnx.ModelProto) -> None:
    """A Q/DQ pair leaves out a layer: its input is no longer rounded."""
    pair = node(model, "QuantizeLinear", 3)
    after = next(
        n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == pair.output[0]
    )
    for other in model.graph.node:
        other.input[:] = [pair.input[0] if name == after.output[0] else name for name in other.input]


SEEN = "arithmetic or values"  # as the weights have it, which differ by processor
SEEN_OR_MADE_AGAIN = f"{SEEN} or origin"
INT8_MUTANTS: dict[str, Fault] = {
    "int8: calibrated on 8 pictures": ("calibration", told_few),
    "int8: calibrated on 8 pictures, told as 512": (SEEN_OR_MADE_AGAIN, calibrated(lambda s: train(s)[:8])),
    "int8: calibrated on test pictures": ("calibration", told_test),
    "int8: calibrated on test pictures, told as train": (
        SEEN_OR_MADE_AGAIN,
        calibrated(lambda s: np.asarray(data(s.run.path).test.images[:256])),
    ),
    "int8: calibrated on pictures that nobody has": ("calibration", told_others),
    "int8: calibrated on noise": (SEEN, calibrated(noise)),
    "int8: another calibrator than told": (
        SEEN_OR_MADE_AGAIN,
        ranged(lambda name, low, high: (low * 0.97, high * 0.97)),
    ),
    "int8: an unknown calibrator": (
        "calibration",
        manifest(lambda m: m["calibration"].update(calibrator="magic")),
    ),
    "int8: says it calibrated on test": (
        "calibration",
        manifest(lambda m: m["calibration"].update(split="test")),
    ),
    "int8: ranges halved": (SEEN, ranged(lambda name, low, high: (low / 2, high / 2))),
    "int8: ranges four times too wide": (
        SEEN_OR_MADE_AGAIN,
        ranged(lambda name, low, high: (low * 4, high * 4)),
    ),
    "int8: a scale is NaN": (SEEN, tensor("weight_scale", lambda a: np.full_like(a, np.nan), 3)),
    "int8: one channel's scale x1.05": (
        SEEN,
        tensor("weight_scale", lambda a: a * np.where(np.arange(a.size) == 0, 1.05, 1), 3),
    ),
    # a range of the same width a thirtieth to the side: another choice of pictures may do as much
    "int8: a zero point moved by 8": (
        f"{SEEN} or origin",
        tensor("zero_point", lambda a: a + np.asarray(8, a.dtype), 0),
    ),
    "int8: sign of one weight": (SEEN, tensor("head.2.weight_quantized", poke((0, 0), lambda v: -v))),
    "int8: bias dropped": (SEEN, lose_bias),
    "int8: two classes swapped": ("labels", swap_classes),
    "int8: head x0.93, made by another onnxruntime": (
        "values",
        lambda s: (module(shrink)(s), manifest(other_maker)(s)),
    ),
    "int8: a temperature on the logits": ("values", lambda s: s.graph(after_logits("Mul", 0.9))),
    "int8: a Q/DQ pair left out": ("origin", lambda s: s.graph(flip_rounding)),
    "manifest: int8 calls itself fp16": ("file", manifest(lambda m: m.update(precision="fp16"))),
}
