"""Bisection: the node at fault is named, a healthy file names none, whatever else was done to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mutants
import node_mutants
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import Result
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

import export.bisect.reference
import export.bisect.search
from export.bisect.align import pair
from export.bisect.nodes import mark_outputs, read
from export.bisect.reference import Reference, reference
from export.bisect.search import batches_of, compare, some_pictures
from export.bisect.tensors import load
from export.build.graph import in_precision, to_onnx
from lfdeploy.artifact import Artifact
from lfdeploy.models import create
from lfdeploy.models.deploy import Classifier
from lfdeploy.run import Run, sha256

PROFILE = (1, 8, 64)


def wide(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.wide)


@pytest.fixture(scope="module")
def clean(tiny_run: Run) -> Reference:
    return reference(tiny_run, "peer0", "fp32", 16, PROFILE)


@pytest.fixture(scope="module")
def batches(tiny_run: Run) -> list[np.ndarray]:
    return batches_of(some_pictures(tiny_run, None, 8), 16, probes=True)


@pytest.fixture
def healthy(tiny_run: Run) -> Path:
    return tiny_run.artifacts / "peer0-onnx-fp32" / "model.onnx"


def named(document: dict[str, Any]) -> dict[str, Any]:
    """The node that the sentence names: the first at fault, or the first that differs without effect."""
    found: dict[str, Any] = document["first"] or next(iter(document["silent"]), {})
    return found


def misnamed(
    clean: Reference, healthy: bytes, batches: list[np.ndarray], step: int, disguised: bool
) -> Iterator[tuple[str, str]]:
    """One entry per single-node mutant: its name, and the sentence if it named another node than the
    changed one.
    """
    model = onnx.load_from_string(healthy)
    typed = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*typed.value_info, *typed.output)
    }
    for mutant in list(node_mutants.family(model, shapes))[::step]:
        if clean.precision == "fp16" and mutant.name.endswith("rounded to half"):
            continue  # changes nothing there
        proto = onnx.load_from_string(healthy)
        mutant.change(proto)
        if disguised:
            node_mutants.disguise(proto)
        document = compare(clean, proto, batches)
        found = named(document)
        right = (
            found.get("name") == mutant.node
            if mutant.node == node_mutants.PLANTED
            else found.get("module_node") == mutant.node
        )
        yield mutant.name, "" if right else document["sentence"]


@pytest.mark.parametrize(
    "disguised",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["as it is", "all names and the order changed"],
)
def test_single_node_faults_are_named(
    clean: Reference, healthy: Path, batches: list[np.ndarray], disguised: bool
) -> None:
    found = dict(misnamed(clean, healthy.read_bytes(), batches, 8, disguised))
    assert len(found) == 20
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.parametrize(("precision", "disguised"), [wide("fp32", False), wide("fp16", True)])
def test_all_single_node_faults_are_named(
    precision: str, disguised: bool, tiny_run: Run, batches: list[np.ndarray]
) -> None:
    clean = reference(tiny_run, "peer0", precision, 16, PROFILE)
    blob = to_onnx(in_precision(tiny_run.classifier("peer0"), precision, 16), 16, PROFILE, {})
    found = dict(misnamed(clean, blob, batches, 1, disguised))
    wrong = {name: said for name, said in found.items() if said}
    assert len(found) == {"fp32": 160, "fp16": 151}[precision]
    assert len(wrong) <= 0.05 * len(found), wrong
    print(f"{len(found) - len(wrong)} of {len(found)} single-node faults named, {precision}")


#: Faults of the gate's own suite that one node makes: (operator, layer) that must be named, and a part of
#: what is said of it.
SINGLE = {
    "weights: NaN": ("Gemm", "head.2", "in output channel 0 where it is nan"),
    "weights: infinity": ("Conv", "stages.0.0.conv1", "where it is inf"),
    "weights: sign of one": ("Gemm", "head.2", "differs in output channel 0 by"),
    "weights: one conv channel x1.05": ("Conv", "stages.0.0.conv1", "differs in output channel 0 by"),
    "weights: bias dropped": ("Gemm", "head.2", "network.head.2.bias differs in 10 of 10 output channels"),
    "weights: a convolution's kernels mirrored": ("Conv", "stages.0.0.conv1", "differs in 16 of 16"),
    "graph: softmax twice": ("Softmax", "after outputs", "is not in the module"),
    "graph: rows depend on the batch": ("ReduceMean", "after head.2", "is not in the module"),
    "graph: a ReLU lost": ("Identity", "stages.0.0", "is Identity where the module has Relu"),
    "graph: a convolution padded on one side": (
        "Conv",
        "stem.0",
        "attribute pads is [0, 0, 2, 2], the module has [1, 1, 1, 1]",
    ),
    "graph: a temperature on the logits": ("Mul", "after head.2", "is not in the module"),
    "pixels: divided by 256": ("Mul", "prologue", "initializer scale differs in 3 of 3 values"),
    "pixels: one level darker": ("Add", "prologue", "initializer shift differs"),
    "pixels: BGR": ("Slice", "after prologue", "is not in the module"),
}


@pytest.mark.parametrize("name", list(SINGLE))
def test_faults_of_the_suite(
    name: str, tiny_run: Run, copied: Callable[[str], Path], clean: Reference, batches: list[np.ndarray]
) -> None:
    subject = mutants.Subject(copied("peer0-onnx-fp32"), tiny_run)
    mutants.MUTANTS[name][1](subject)
    document = compare(clean, load(subject.file), batches)
    first = document["first"]
    assert (first["op"], first["layer"]) == SINGLE[name][:2], document["sentence"]
    assert SINGLE[name][2] in document["sentence"]
    assert first["before"] == 0  # the same kernels on the same numbers


def test_several_faults_are_listed_in_order(
    healthy: Path, clean: Reference, batches: list[np.ndarray]
) -> None:
    proto = load(healthy)
    for node, change in (
        ("node_conv2d_7", node_mutants._scale(1.1)),
        ("node_conv2d_2", node_mutants._add(0.1)),
    ):
        node_mutants.edit(node, 1, change)(proto)
    node_mutants.becomes("node_relu_5", "Identity")(proto)
    document = compare(clean, proto, batches)
    assert [f["module_node"] for f in (document["first"], *document["others"])] == [
        "node_conv2d_2",
        "node_relu_5",
        "node_conv2d_7",
    ]
    assert document["sentence"].endswith("2 more nodes differ.")


def network(arch: str) -> Classifier:
    torch.manual_seed(0)
    made = create(arch, 10).train()
    with torch.no_grad():
        made(torch.randn(8, 3, 64, 64))  # running statistics that differ from 0 and 1
    return Classifier(made.eval(), [0.5] * 3, [0.2] * 3)


class Untrained:
    """As much of a run as a reference needs."""

    def __init__(self, classifier: Classifier) -> None:
        self.made = classifier

    def classifier(self, target: str) -> Classifier:
        return self.made


HEALTHY = [("resnet8", "fp32"), pytest.param("resnet8", "fp16", marks=pytest.mark.slow)]
HEALTHY += [
    wide("mobilenet_v3_small", "bf16"),
    wide("shufflenet_v2", "fp32"),
    wide("efficientnet_b0", "fp16"),
    wide("convnext_tiny", "fp16"),
]


@pytest.mark.parametrize(("arch", "precision"), HEALTHY)
def test_a_healthy_file_names_no_layer(arch: str, precision: str) -> None:
    classifier = network(arch)
    blob = to_onnx(in_precision(classifier, precision, 64), 64, PROFILE, {"some": "metadata"})
    found = reference(Untrained(classifier), "peer0", precision, 64, PROFILE)  # type: ignore[arg-type]
    pictures = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    document = compare(found, onnx.load_from_string(blob), batches_of(pictures, 64, probes=True))
    assert (document["first"], document["others"], document["silent"], document["notes"]) == (
        None,
        [],
        [],
        [],
    )
    assert document["exporter"]["first"] is None
    assert len(document["layers"]) >= len(found.graph.ops) - 3
    assert {row["difference"] for row in document["layers"]} == {0.0}
    if precision == "fp32":
        assert document["rounding"] is None
    else:
        assert document["rounding"]["overflows"] is None
        assert document["rounding"]["end"] > 0


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param("resnet8", marks=pytest.mark.slow),
        wide("mobilenet_v3_small"),
        wide("shufflenet_v2"),
        wide("convnext_tiny"),
    ],
)
def test_a_rewritten_healthy_file_names_no_layer(arch: str, tmp_path: Path) -> None:
    """onnxruntime's own fusions: other operators, fewer nodes, other layouts, the same answers.

    A fault in it is still named.
    """
    classifier = network(arch)
    found = reference(Untrained(classifier), "peer0", "fp32", 64, PROFILE)  # type: ignore[arg-type]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    blob = to_onnx(in_precision(classifier, "fp32", 64), 64, PROFILE, {})
    ort.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    pictures = batches_of(
        np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8), 64, probes=True
    )
    document = compare(found, load(tmp_path / "fused.onnx"), pictures)
    assert document["silent"]
    assert document["first"] is None, document["sentence"]
    proto = load(tmp_path / "fused.onnx")
    gemm = [n for n in proto.graph.node if n.op_type == "Gemm"][-1]
    node_mutants.edit(gemm.name, 1, node_mutants._scale(1.05))(proto)
    assert compare(found, proto, pictures)["first"]["name"] == gemm.name


def test_layers_have_the_names_of_the_modules(clean: Reference) -> None:
    named = {op.name: clean.layers[op.name] for op in clean.graph.ops if op.kind in ("Conv", "Gemm")}
    modules = dict(clean.classifier.network.named_modules())
    assert len(named) == 10
    for node, layer in named.items():
        weights = next(op for op in clean.graph.ops if op.name == node).constants[1].array
        assert np.array_equal(weights, modules[layer].weight.detach().numpy()), layer
    assert clean.layers["node_mul"] == "prologue"
    assert clean.layers["node_softmax"] == "outputs"


def test_alignment_does_not_need_names_or_order(healthy: Path, clean: Reference) -> None:
    proto = load(healthy)
    node_mutants.disguise(proto)
    mark_outputs(proto)
    other = read(proto)
    pairs = pair(clean.graph, other)
    assert len(pairs) == len(clean.graph.ops) == len(other.ops)
    assert [op.number for op in other.ops] != sorted(op.number for op in other.ops)
    for i, j in pairs:
        ours, theirs = clean.graph.ops[i], other.ops[j]
        assert ours.kind == theirs.kind
        assert all(np.array_equal(c.array, theirs.constants[k].array) for k, c in ours.constants.items())


@pytest.mark.slow
def test_quarantine_by_name_with_other_bytes(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    run = Run(
        Path(
            shutil.copytree(
                tiny_run.path, tmp_path / "runs" / "tiny", ignore=shutil.ignore_patterns("artifacts")
            )
        )
    )
    place = Path(
        shutil.copytree(
            tiny_run.artifacts / "peer0-onnx-fp32", run.artifacts / "quarantine" / "peer0-onnx-fp32"
        )
    )
    proto = load(place / "model.onnx")
    node_mutants.edit("node_conv2d_4", 1, node_mutants._scale(1.05))(proto)
    (place / "model.onnx").write_bytes(proto.SerializeToString())
    by_name = lf("bisect", "peer0-onnx-fp32", "--runs", tmp_path / "runs", "--images", 2)
    assert by_name.exit_code == 0
    assert "not the file that its manifest describes" in by_name.stderr
    last = by_name.stderr.strip().splitlines()[-1]
    assert last.startswith("First difference: node ")
    assert (
        "(Conv, stages.1.0.conv2): initializer network.stages.1.0.conv2.weight differs in output channel 0 by"
        in last
    )
    assert last.endswith("everything before agrees to the bit.")
    assert "stages.1.0.conv2" in by_name.stdout
    assert len(by_name.stdout.splitlines()) < 16
    by_path = lf("bisect", place, "--json")  # the run is found from where the artifact lies
    document = json.loads(by_path.stdout, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert by_path.exit_code == 0
    assert document["sha256_fits"] is False
    assert document["images"] == 8
    assert document["first"]["layer"] == "stages.1.0.conv2"
    assert document["sentence"] == last


def test_not_a_number_is_valid_json(healthy: Path, clean: Reference, batches: list[np.ndarray]) -> None:
    proto = load(healthy)
    node_mutants.edit("node_conv2d_4", 1, node_mutants._nan)(proto)
    document = compare(clean, proto, batches)
    json.dumps(document, allow_nan=False)
    assert document["first"]["module_node"] == "node_conv2d_4"
    assert document["first"]["own"] is None
    assert document["others"] == []  # what NaN makes of the layers behind it is their inputs' doing


def test_a_file_that_does_not_run_is_looked_at(
    healthy: Path, clean: Reference, batches: list[np.ndarray]
) -> None:
    proto = load(healthy)
    node_mutants.attribute("node_conv2d_4", "strides", [2, 2])(proto)  # its map no longer fits the shortcut's
    document = compare(clean, proto, batches)
    assert document["ran"] is False
    assert any("cannot run the file" in note for note in document["notes"])
    assert "attribute strides is [2, 2], the module has [1, 1]" in document["sentence"]
    assert document["first"]["module_node"] == "node_conv2d_4"
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("change", ["graph: static batch", "graph: input renamed", "graph: other opset"])
def test_another_contract_is_no_layer_but_is_said(
    change: str, tiny_run: Run, copied: Callable[[str], Path], clean: Reference, batches: list[np.ndarray]
) -> None:
    subject = mutants.Subject(copied("peer0-onnx-fp32"), tiny_run)
    mutants.MUTANTS[change][1](subject)
    document = compare(clean, load(subject.file), batches)
    assert document["first"] is None
    assert document["notes"]
    assert document["notes"][0] in document["sentence"]


@pytest.mark.parametrize("change", ["file: cut in half, sealed", "graph: external weights"])
def test_a_file_that_cannot_be_read_is_one_line(
    change: str, tiny_run: Run, copied: Callable[[str], Path], lf: Callable[..., Result]
) -> None:
    subject = mutants.Subject(copied("peer0-onnx-fp32"), tiny_run)
    mutants.MUTANTS[change][1](subject)
    result = lf("bisect", subject.path, "--run", tiny_run.path)
    assert result.exit_code == 1
    assert "cannot be read as ONNX" in result.stderr.strip().splitlines()[-1]


def test_an_engine_needs_its_source(
    tiny_run: Run, copied: Callable[[str], Path], lf: Callable[..., Result]
) -> None:
    subject = mutants.Subject(copied("peer0-onnx-fp32"), tiny_run)
    source = subject.file.rename(subject.path / "source.onnx")
    subject_manifest = subject.manifest | {
        "format": "trt",
        "file": "model.engine",
        "engine": {"source_sha256": sha256(source)},
    }
    (subject.path / "manifest.json").write_text(json.dumps(subject_manifest))
    found = lf("bisect", subject.path, "--run", tiny_run.path, "--images", 0)
    assert (found.exit_code, found.stderr.strip().splitlines()[-1]) == (
        0,
        "No layer differs: all tensors agree to the bit.",
    )
    assert "not the file" not in found.stderr
    source.unlink()
    lost = lf("bisect", subject.path, "--run", tiny_run.path)
    assert lost.exit_code == 1
    assert "lfdeploy export tiny --peer 0 --format onnx --precision fp32" in lost.stderr


@pytest.mark.slow
def test_overflow_of_half_precision_is_named(tiny_run: Run, tmp_path: Path) -> None:
    """The file is what it should be; fp16 itself is not enough for this network, and that is said with
    its layer.
    """
    run = Run(
        Path(
            shutil.copytree(
                tiny_run.path, tmp_path / "runs" / "loud", ignore=shutil.ignore_patterns("artifacts")
            )
        )
    )
    weights = load_file(run.weights)
    weights["peer0.network.stages.0.0.bn1.weight"] *= 1e5
    weights["peer0.network.stages.0.0.bn1.bias"] *= 1e5
    weights["peer0.network.stages.0.0.conv2.weight"] *= 1e-5
    save_file(weights, run.weights)
    found = reference(run, "peer0", "fp16", 16, PROFILE)
    blob = to_onnx(in_precision(run.classifier("peer0"), "fp16", 16), 16, PROFILE, {})
    document = compare(
        found, onnx.load_from_string(blob), batches_of(some_pictures(run, None, 4), 16, probes=True)
    )
    assert document["first"] is None
    assert "stages.0.0.conv1" in document["rounding"]["overflows"]


def test_an_exporter_that_is_wrong_itself_is_named(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, batches: list[np.ndarray]
) -> None:
    """File and reference share the exporter, so its own fault would cancel:

    PyTorch's layers are compared too.
    """

    def wrong(*given: Any) -> bytes:
        proto = onnx.load_from_string(to_onnx(*given))
        node_mutants.attribute("node_conv2d_4", "pads", [0, 0, 2, 2])(proto)
        return bytes(proto.SerializeToString())

    monkeypatch.setattr(export.bisect.reference, "to_onnx", wrong)
    found = reference(tiny_run, "peer0", "fp32", 16, PROFILE)
    document = compare(found, onnx.load_from_string(wrong(found.classifier, 16, PROFILE, {})), batches)
    assert document["first"] is None
    assert document["exporter"]["first"] == "stages.1.0.conv2"
    assert "not the PyTorch module: first at stages.1.0.conv2" in document["sentence"]


def test_pictures_are_not_asked_for_when_there_are_to_be_none(tiny_run: Run, tmp_path: Path) -> None:
    run = Run(
        Path(
            shutil.copytree(tiny_run.path, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("artifacts"))
        )
    )
    config = run.read("config.json") | {"data": str(tmp_path / "gone")}
    (run.path / "config.json").write_text(json.dumps(config))
    assert some_pictures(run, None, 0).shape == (0, 16, 16, 3)
    with pytest.raises(export.bisect.search.LfdeployError, match="--data, or use --images 0"):
        some_pictures(run, None, 3)
    assert some_pictures(run, "digits", 3).shape == (3, 16, 16, 3)


class Calibration:
    """Pictures for `onnxruntime.quantization`."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.batches = iter([pictures[i : i + 8] for i in range(0, len(pictures), 8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        found = next(self.batches, None)
        return None if found is None else {"images": found}


@pytest.fixture(scope="module", params=["u8s8", "s8s8"])
def quantized(
    request: pytest.FixtureRequest, tiny_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The fp32 file of peer0 with Q/DQ nodes, by onnxruntime's own tool; with u8s8 it lets every ReLU behind
    a Conv vanish.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    unsigned = request.param == "u8s8"
    path: Path = tmp_path_factory.mktemp("int8") / f"{request.param}.onnx"
    quantize_static(
        tiny_run.artifacts / "peer0-onnx-fp32" / "model.onnx",
        path,
        Calibration(some_pictures(tiny_run, None, 64)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
        nodes_to_exclude=["node_mul", "node_add"],
        op_types_to_quantize=["Conv", "Gemm", "Add", "Relu"],
        extra_options={} if unsigned else {"ActivationSymmetric": True, "QuantizeBias": False},
    )
    return path


def test_a_quantised_file_that_does_not_run_is_one_sentence(
    quantized: Path, clean: Reference, batches: list[np.ndarray]
) -> None:
    proto = load(quantized)
    conv = next(node for node in proto.graph.node if node.op_type == "Conv" and "4" in node.name)
    next(each for each in conv.attribute if each.name == "strides").ints[:] = [2, 2]
    document = compare(clean, proto, batches)
    assert document["ran"] is False
    assert document["largest_drop"] is None
    assert "The file cannot be run" in document["sentence"]


def test_int8_has_a_profile(quantized: Path, tiny_run: Run, clean: Reference) -> None:
    kinds = [n.op_type for n in load(quantized).graph.node]
    assert kinds.count("DequantizeLinear") > 20
    assert (kinds.count("Relu") < 7) == (quantized.stem == "u8s8")
    document = compare(
        clean, load(quantized), batches_of(some_pictures(tiny_run, None, 16), 16, probes=False)
    )
    rows = {row["layer"]: row for row in document["layers"] if row["op"] in ("Conv", "Gemm")}
    assert len(rows) == 10
    assert all(row["own_sqnr_db"] > 20 and row["weights_sqnr_db"] > 35 for row in rows.values()), rows
    assert rows["head.2"]["sqnr_db"] > 15
    assert document["quantized"]
    assert document["sentence"].startswith("Largest drop: node ")
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("what", ["range", "weights", "NaN"])
def test_the_layer_that_int8_hurts_most_is_named(
    what: str, quantized: Path, tiny_run: Run, clean: Reference
) -> None:
    proto = load(quantized)
    name = {
        "range": "relu_3_scale",
        "weights": "network.stages.1.0.conv1.weight_scale",
        "NaN": "network.stages.1.0.conv1.weight_scale",
    }[what]
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    # the channel that says most
    array.flat[array.argmax()] *= {"range": 0.1, "weights": 4.0, "NaN": np.nan}[what]
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    document = compare(clean, proto, batches_of(some_pictures(tiny_run, None, 16), 16, probes=False))
    worst = document["largest_drop"]
    # conv1's output passes its ReLU before it is quantised, so a bad range shows at either
    assert worst["layer"] in (
        {"stages.1.0", "stages.1.0.conv1"} if what == "range" else {"stages.1.0.conv1"}
    ), document["sentence"]
    assert worst["own_sqnr_db"] < 20  # of the layers that nobody touched: 30 and more
    if what == "weights":
        assert worst["weights_sqnr_db"] < 20
    assert worst["layer"] in document["sentence"]


def test_find_prefers_what_is_published(tiny_run: Run) -> None:
    from lfdeploy.artifact import find

    found = find("peer0-onnx-fp32", tiny_run.path.parent)
    assert isinstance(found, Artifact)
    assert found.path == tiny_run.artifacts / "peer0-onnx-fp32"
