"""int8 for OpenVINO: what it computes in is read back, and its IR is made again and compared as an ONNX
file is.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import Result
from marks import some
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from export.build.graph import in_precision, to_onnx
from export.build.quantize import activations, batches, pick, with_ranges
from export.build.ranges import CALIBRATORS, Ranges, ranges, spreads
from export.independent.float_ir import IrFile
from export.parity.contract import lone_facts
from lfdeploy import open_artifact
from lfdeploy.artifact import input_of, outputs_of, read, sealed
from lfdeploy.backends import BACKENDS, Material, Source, openvino
from lfdeploy.backends.openvino import ir_difference, read_ir
from lfdeploy.backends.openvino_int8 import layers_of, products_in_int8
from lfdeploy.devices import int8_saturates
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels
from lfdeploy.models import create
from lfdeploy.models.backbone import Backbone, pool_linear
from lfdeploy.models.deploy import Classifier
from lfdeploy.run import Run, sha256, write_json

NAME = "peer0-openvino-int8"
PROFILE = (1, 8, 64)
Change = Callable[[Classifier], None]


def seal(path: Path, **changes: object) -> None:
    manifest = read(path).manifest | changes
    manifest |= {
        "sha256": sha256(path / "model.xml"),
        "bytes": sum((path / f).stat().st_size for f in ("model.xml", "model.bin")),
    }
    manifest["files"] = {
        "model.bin": {"sha256": sha256(path / "model.bin"), "bytes": (path / "model.bin").stat().st_size}
    }
    write_json(path / "manifest.json", sealed(manifest))


def train(run: Run) -> Pixels:
    data = run.data()
    return np.asarray(data.train.images[pick(data).calibration])


def rebuild(
    run: Run,
    path: Path,
    *,
    module: Change = lambda c: None,
    pictures: Callable[[Run], Pixels] = train,
    moved: Callable[[Ranges], Ranges] = lambda found: found,
    graph: Callable[[onnx.ModelProto], None] = lambda m: None,
    scheme: str = "n8s8",
    quantised: bool = True,
) -> None:
    """The IR made anew with a fault on the way, under a manifest that says nothing of it."""
    manifest = read(path).manifest
    classifier = copy.deepcopy(run.classifier("peer0"))
    module(classifier)
    blob = to_onnx(in_precision(classifier, "fp32", 16), 16, PROFILE, lone_facts(manifest))
    if quantised:
        proto, shown = onnx.load_from_string(blob), pictures(run)
        found = spreads(proto, activations(proto.graph), batches(shown, np.arange(len(shown))))
        blob = with_ranges(blob, moved(ranges(found, manifest["calibration"]["calibrator"])), scheme)
    proto = onnx.load_from_string(blob)
    graph(proto)
    source = path / "source.onnx"
    source.write_bytes(proto.SerializeToString())
    build = BACKENDS["openvino"].build
    assert build is not None
    build(Material(source, PROFILE, lambda: None, lone_facts(manifest)), path / "model.xml")
    source.unlink()
    seal(path)


def tensor(part: str, change: Callable[[np.ndarray], object]) -> Callable[[onnx.ModelProto], None]:
    """Change one initializer, by a part of its name, in place."""

    def edit(model: onnx.ModelProto) -> None:
        found = next(t for t in model.graph.initializer if part in t.name)
        array = numpy_helper.to_array(found).copy()
        change(array)
        found.CopyFrom(numpy_helper.from_array(array, found.name))

    return edit


def sign(array: np.ndarray) -> None:
    array.flat[np.abs(array.astype(int)).argmax()] *= -1


def first_channel(array: np.ndarray) -> None:
    array.flat[0] *= 1.05


def swapped(model: onnx.ModelProto) -> None:
    for part in ("head.2.weight_quantized", "head.2.weight_scale", "head.2.bias_quantized"):
        tensor(part, lambda a: a.__setitem__([1, 2], a[[2, 1]]))(model)


def shrunk(classifier: Classifier) -> None:
    head = [m for m in classifier.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    head.weight.data *= 0.93
    head.bias.data *= 0.93


def other_calibrator(run: Run, path: Path) -> None:
    told = read(path).manifest["calibration"]
    seal(
        path,
        calibration=told | {"calibrator": next(name for name in CALIBRATORS if name != told["calibrator"])},
    )


#: by numbers, or where they differ too little on this processor, by making the file again
SEEN = "arithmetic or values or origin"
#: what is done to a copy, and the stages that may name it
FAULTS: dict[str, tuple[str, Callable[[Run, Path], object]]] = {
    "openvino int8: calibrated on 8 pictures": (
        SEEN,
        lambda run, path: rebuild(run, path, pictures=lambda r: train(r)[:8]),
    ),
    "openvino int8: calibrated on negatives": (
        "origin or values",
        lambda run, path: rebuild(run, path, pictures=lambda r: 255 - train(r)),
    ),
    "openvino int8: ranges 3 % narrower": (
        SEEN,
        lambda run, path: rebuild(
            run, path, moved=lambda f: {n: (a * 0.97, b * 0.97) for n, (a, b) in f.items()}
        ),
    ),
    "openvino int8: ranges forty times too wide": (
        SEEN,
        lambda run, path: rebuild(
            run, path, moved=lambda f: {n: (a * 40, b * 40) for n, (a, b) in f.items()}
        ),
    ),
    "openvino int8: another calibrator than told": (SEEN, other_calibrator),
    "openvino int8: the scheme of another runtime": (
        SEEN,
        lambda run, path: rebuild(run, path, scheme="u8s8"),
    ),
    "openvino int8: one channel's scale x1.05": (
        SEEN,
        lambda run, path: rebuild(run, path, graph=tensor("conv1.weight_scale", first_channel)),
    ),
    "openvino int8: sign of one weight": (
        "origin or values",
        lambda run, path: rebuild(run, path, graph=tensor("conv2.weight_quantized", sign)),
    ),
    "openvino int8: bias dropped": (
        SEEN,
        lambda run, path: rebuild(run, path, graph=tensor("head.2.bias_quantized", lambda a: a.fill(0))),
    ),
    "openvino int8: two classes swapped": ("labels", lambda run, path: rebuild(run, path, graph=swapped)),
    "openvino int8: one level darker": (
        SEEN,
        lambda run, path: rebuild(run, path, module=lambda c: c.shift.sub_(c.scale)),
    ),
    "openvino int8: head x0.93": (SEEN, lambda run, path: rebuild(run, path, module=shrunk)),
    "openvino int8: a float file": ("finite", lambda run, path: rebuild(run, path, quantised=False)),
}


@pytest.mark.slow  # five seconds each: built, and made again for stage origin
@pytest.mark.parametrize("name", some(list(FAULTS), 6, fast=-1))
def test_fault_is_caught(
    name: str, tiny_run: Run, elsewhere: list[Path], copied: Callable[[str], Path], lf: Callable[..., Result],
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    stages, mutate = FAULTS[name]
    path = copied(NAME)
    mutate(tiny_run, path)
    result = lf("verify", path, "--run", tiny_run.path)
    found = re.search(r"Error: .*?stage (\w+):", result.stderr)
    got = found.group(1) if found and result.exit_code == 3 else f"exit {result.exit_code}"
    record_property("fault", (name, stages, got))
    assert got in stages.split(" or "), result.stderr


@pytest.mark.slow
def test_untouched_passes_and_made_again_is_the_same(
    tiny_run: Run, elsewhere: list[Path], copied: Callable[[str], Path], lf: Callable[..., Result]
) -> None:
    path = copied(NAME)
    assert lf("verify", path, "--run", tiny_run.path).exit_code == 0
    rebuild(tiny_run, path)
    for file in ("model.xml", "model.bin"):
        assert (path / file).read_bytes() == (tiny_run.artifacts / NAME / file).read_bytes()
    assert lf("verify", path, "--run", tiny_run.path).exit_code == 0


def test_what_the_manifest_says(tiny_run: Run, elsewhere: list[Path]) -> None:
    manifest = read(tiny_run.artifacts / NAME).manifest
    assert manifest["calibration"]["scheme"] == "n8s8"
    assert set(manifest["speedup_over_fp32"]) == {"1", "8"}
    stages = [c["stage"] for c in manifest["parity"]["checks"]]
    assert {"calibration", "values", "accuracy", "origin"} <= set(stages)
    assert manifest["parity"]["subject"] == "openvino on the published file"
    assert "OpenVINO, one thread of" in (tiny_run.artifacts / NAME / "README.md").read_text()


def test_every_layer_multiplies_in_int8(tiny_run: Run, elsewhere: list[Path]) -> None:
    """Read back from what OpenVINO compiled; an fp32 IR under an int8 manifest is refused when it is opened.

    Where int8 sums would overflow, every layer multiplies in fp32 instead.
    """
    path = tiny_run.artifacts / NAME
    session = open_artifact(path).session
    wanted = products_in_int8(read_ir(path / "model.xml"))
    assert wanted == 10  # nine convolutions and the classifier of a resnet8
    layers = layers_of(session.compiled.get_runtime_model())  # type: ignore[attr-defined]
    assert layers == {"fp32" if int8_saturates() else "int8": wanted}
    floats = tiny_run.artifacts / "peer0-openvino-fp32" / "model.xml"
    with pytest.raises(LfdeployError, match="has int8 weights for 0"):
        BACKENDS["openvino"].open(Source(floats, read(path).manifest), "cpu")


def known_to_onnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in an opset whose DequantizeLinear onnx's own evaluator has: 19 says no more of it
    than 18.
    """
    model.opset_import[0].version = 19
    return model


def colours(classifier: Classifier) -> None:
    """Numbers of its own for each channel of a picture, as photos have them; digits are grey."""
    classifier.scale.mul_(torch.tensor([0.8, 1.0, 1.3]).view_as(classifier.scale))
    classifier.shift.add_(torch.tensor([0.1, 0.0, -0.1]).view_as(classifier.shift))


@pytest.mark.parametrize("module", [lambda c: None, colours], ids=["grey", "colours"])
def test_it_answers_on_every_cpu_as_the_standard_says(
    module: Change,
    tiny_run: Run,
    elsewhere: list[Path],
    copied: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against onnx's own evaluator on the graph that the IR was built from; by either way of multiplying."""
    path, pictures = copied(NAME), np.ascontiguousarray(tiny_run.data().test.images[:32])
    graphs: list[onnx.ModelProto] = []
    rebuild(tiny_run, path, module=module, graph=graphs.append)
    standard = ReferenceEvaluator(known_to_onnx(graphs[0])).run(["logits"], {"images": pictures})[0]
    scale = np.abs(standard).max()
    assert np.abs(open_artifact(path).run(pictures)[0] - standard).max() / scale < 0.03
    monkeypatch.setattr(openvino, "int8_saturates", lambda: True)
    assert np.abs(open_artifact(path).run(pictures)[0] - standard).max() / scale < 0.03


def test_ir_difference_names_what_differs(tiny_run: Run, elsewhere: list[Path]) -> None:
    int8, fp32 = (read_ir(tiny_run.artifacts / name / "model.xml") for name in (NAME, "peer0-openvino-fp32"))
    assert ir_difference(int8, int8, "int8") == "the same"
    assert "operations where" in ir_difference(int8, fp32, "int8")


SIGNALLED = """
import gc, signal, sys
from lfdeploy import open_artifact
first, second = open_artifact(sys.argv[1]), open_artifact(sys.argv[1])
del first; gc.collect()
del second; gc.collect()
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
signal.raise_signal(signal.SIGTERM)
print(heard)
"""


def test_a_signal_after_two_of_them_were_closed(elsewhere: list[Path]) -> None:
    """OpenVINO gives the thread a signal stack; with a core for each file the handler would run on a
    freed one.
    """
    command = [sys.executable, "-c", SIGNALLED, str(elsewhere[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[15]\n"), done.stderr


@pytest.mark.slow
def test_an_ir_whose_logits_are_rounded_is_read(tmp_path: Path) -> None:
    """Where a network has two matrices one after the other, what the last one gives is rounded too, and it is
    an output.
    """
    torch.manual_seed(0)
    classifier = Classifier(create("mobilenet_v3_small", 5).eval(), [0.5] * 3, [0.25] * 3).eval()
    blob = to_onnx(in_precision(classifier, "fp32", 32), 32, PROFILE, {"labels": ["a"]})
    proto, shown = (
        onnx.load_from_string(blob),
        np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8),
    )
    found = spreads(proto, activations(proto.graph), batches(shown, np.arange(16)))
    (tmp_path / "source.onnx").write_bytes(with_ranges(blob, ranges(found, next(iter(CALIBRATORS))), "n8s8"))
    build = BACKENDS["openvino"].build
    assert build is not None
    build(Material(tmp_path / "source.onnx", PROFILE, lambda: None, {}), tmp_path / "model.xml")
    file = IrFile(tmp_path / "model.xml")
    assert "logits" in file.ranges
    answers = file.unrounded({}, None, file.ranges, ["logits"])(shown)
    assert set(answers) == {"logits", *file.ranges}


@pytest.mark.slow
def test_a_norm_before_an_activation_is_computed_as_the_standard_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in DenseNet: the norm cannot go into a layer before it, and openvino folds it through the activation
    into the rounding.
    """
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(16)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(16) + 0.3)
    stem = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.AvgPool2d(2))
    stage = torch.nn.Sequential(norm, torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, padding=1))
    classifier = Classifier(Backbone(stem, [stage], pool_linear(16, 5)).eval(), [0.5] * 3, [0.25] * 3).eval()
    blob = to_onnx(in_precision(classifier, "fp32", 32), 32, PROFILE, {"labels": ["a"]})
    proto, shown = (
        onnx.load_from_string(blob),
        np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8),
    )
    found = spreads(proto, activations(proto.graph), batches(shown, np.arange(16)))
    rounded = with_ranges(blob, ranges(found, next(iter(CALIBRATORS))), "n8s8")
    (tmp_path / "source.onnx").write_bytes(rounded)
    build = BACKENDS["openvino"].build
    assert build is not None
    build(Material(tmp_path / "source.onnx", PROFILE, lambda: None, {}), tmp_path / "model.xml")
    standard = ReferenceEvaluator(known_to_onnx(onnx.load_from_string(rounded))).run(
        ["logits"], {"images": shown}
    )[0]
    monkeypatch.setattr(openvino, "int8_saturates", lambda: True)
    manifest = {"precision": "int8", "input": input_of(32), "outputs": outputs_of(5), "batch": {"max": 64}}
    answers = BACKENDS["openvino"].open(Source(tmp_path / "model.xml", manifest), "cpu")(shown)[0]
    assert np.abs(answers - standard).max() / np.abs(standard).max() < 0.03
