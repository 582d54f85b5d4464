"""int8: streamed calibration, its ranges, bytes that repeat, and the rule about speed.

Faults are in int8_mutants.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import Result
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from export.bench.speed import faster, in_words, median_interval
from export.build.graph import in_precision, to_onnx
from export.build.quantize import activations, batches, logits_of, pick, quantize, with_ranges
from export.build.ranges import (
    CALIBRATORS,
    Spread,
    least_squares,
    mean_minmax,
    minmax,
    percentile,
    ranges,
    spreads,
)
from lfdeploy.artifact import read
from lfdeploy.devices import instruction_set, int8_saturates
from lfdeploy.errors import LfdeployError
from lfdeploy.run import Run


def spread_of(values: np.ndarray, batch: int = 8) -> Spread:
    spread = Spread()
    for start in range(0, len(values), batch):
        spread.add(values[start : start + batch].astype(np.float32))
    return spread


def test_a_spread_does_not_depend_on_how_it_is_batched() -> None:
    values = np.random.default_rng(0).normal(0, 3, (64, 5, 7)) ** 3
    one, many = spread_of(values, 64), spread_of(values, 4)
    assert (one.low, one.high, one.pictures) == (many.low, many.high, 64)
    assert one.reach == many.reach
    assert one.counts.sum() == many.counts.sum() == values.size
    # halved bins put edges one bin apart
    assert np.abs(one.counts.cumsum() - many.counts.cumsum()).max() <= values.size * 0.01


def test_ranges_by_hand() -> None:
    values = np.tile(np.linspace(0, 1, 10001), (20, 1))
    values[7, 0] = 1000.0  # one value of 200,000
    spread = spread_of(values)
    assert minmax(spread) == (0.0, 1000.0)
    assert mean_minmax(spread) == pytest.approx((0.0, (19 * 1 + 1000) / 20), abs=1e-4)
    assert percentile(spread)[1] < 1.5
    assert least_squares(spread)[1] <= 1000.0
    assert least_squares(spread_of(np.tile(np.linspace(-1, 1, 1001), (20, 1)))) == pytest.approx(
        (-1, 1), abs=0.03
    )


def test_calibration_pictures_are_never_in_test(tiny_run: Run) -> None:
    data = tiny_run.data()
    chosen = pick(data)
    assert len(chosen.calibration) == 512
    assert not set(data.train.digests[chosen.calibration].tolist()) & set(data.test.digests.tolist())
    assert chosen.held_out_split == "val"
    assert sum(len(b) for b in batches(data.train.images, chosen.calibration)) == 512


SCHEMES = ["u8s8", *(pytest.param(scheme, marks=pytest.mark.slow) for scheme in ("s8s8", "n8s8"))]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_same_input_same_bytes_and_near_fp32(tiny_run: Run, scheme: str) -> None:
    blob = to_onnx(in_precision(tiny_run.classifier("peer1"), "fp32", 16), 16, (1, 8, 64), {"labels": ["a"]})
    data = tiny_run.data()
    first, told = quantize(blob, scheme, data)
    second, _ = quantize(blob, scheme, data)
    assert first == second
    assert set(told["tries"]) == {"minmax", "mean-minmax", "percentile", "least-squares"}
    least = min(t["kl_mean"] for t in told["tries"].values())
    near = [name for name, t in told["tries"].items() if t["kl_mean"] <= 1.05 * least]
    assert told["calibrator"] == next(name for name in CALIBRATORS if name in near)  # it cuts off least
    model = onnx.load_from_string(first)
    onnx.checker.check_model(model, full_check=True)
    assert [p.key for p in model.metadata_props] == ["lfdeploy"]
    kinds = [n.op_type for n in model.graph.node]
    assert [kind for kind in kinds if "Linear" not in kind][:4] == ["Cast", "Transpose", "Mul", "Add"]
    first_rounding = kinds.index("QuantizeLinear")
    assert kinds.index("Add") < first_rounding  # the prologue is fp32
    weights = {t.name: t.data_type for t in model.graph.initializer if t.name.endswith("weight_quantized")}
    assert len(weights) == kinds.count("Conv") + 1
    assert set(weights.values()) == {onnx.TensorProto.INT8}
    pictures = np.asarray(data.test.images[:64])
    exact, found = logits_of(blob, pictures), logits_of(first, pictures)
    assert 0 < np.abs(found - exact).max() / np.abs(exact).max() < 0.1
    zeros = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("zero_point")]
    assert {zero.dtype.name for zero in zeros if zero.size == 1} >= {
        "u8s8": {"uint8"},
        "s8s8": {"int8"},
        "n8s8": {"uint8", "int8"},
    }[scheme]
    assert any(zero.any() for zero in zeros) == (scheme == "u8s8")


def plain_logits(blob: bytes, pictures: np.ndarray) -> np.ndarray:
    """As anybody would open the file: onnxruntime with its defaults."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"images": pictures})[0])


def known_to_onnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in an opset whose DequantizeLinear onnx's own evaluator has: 19 says no more of it
    than 18.
    """
    model.opset_import[0].version = 19
    return model


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8", "n8s8"])
def test_int8_answers_on_every_cpu_as_the_standard_says(tiny_run: Run, scheme: str) -> None:
    """Against onnx's own evaluator. Where sums overflow by default, this file is one that shows it."""
    blob = to_onnx(in_precision(tiny_run.classifier("peer0"), "fp32", 16), 16, (1, 8, 64), {"labels": ["a"]})
    data = tiny_run.data()
    quantised, _ = quantize(blob, scheme, data)
    pictures = np.ascontiguousarray(data.test.images[:32])
    standard = ReferenceEvaluator(known_to_onnx(onnx.load_from_string(quantised))).run(
        ["logits"], {"images": pictures}
    )[0]
    scale = np.abs(standard).max()
    ours = np.abs(logits_of(quantised, pictures) - standard).max() / scale
    plain = np.abs(plain_logits(quantised, pictures) - standard).max() / scale
    assert ours < 0.03  # a step or two of rounding on the way
    assert not int8_saturates() or plain > 0.1


def test_int8_and_bf16_through_the_command(
    tiny_run: Run, int8_artifact: Path, lf: Callable[..., Result]
) -> None:
    manifest = read(int8_artifact).manifest
    assert manifest["calibration"]["scheme"] == "u8s8"
    assert manifest["calibration"]["shared_with_test"] == 0
    assert set(manifest["speedup_over_fp32"]) == {"1", "8"}
    assert {"calibration", "origin"} <= {c["stage"] for c in manifest["parity"]["checks"]}
    assert sorted(p.name for p in int8_artifact.iterdir()) == [
        "README.md",
        "manifest.json",
        "model.onnx",
        "report.html",
    ]
    result = lf("export", tiny_run.path, "--peer", 0, "--precision", "bf16")
    assert result.exit_code == 0, result.stderr
    half = read(tiny_run.artifacts / "peer0-onnx-bf16")
    assert half.verdict == "unverified"
    assert "no bf16" in half.manifest["parity"]["reason"]
    assert "widened" in half.manifest["accuracy"]["measured_on"]
    assert {"values", "accuracy"} <= {c["stage"] for c in half.manifest["parity"]["checks"]}
    wrong = lf("predict", half.path, tiny_run.path)
    assert (wrong.exit_code, "bf16" in wrong.stderr) == (1, True), wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=pytest.mark.wide), "int8"])
def test_engines_of_both(tiny_run: Run, precision: str, lf: Callable[..., Result]) -> None:
    result = lf(
        "export",
        tiny_run.path,
        "--peer",
        1,
        "--format",
        "trt",
        "--engine",
        "tensorrt-rtx",
        "--precision",
        precision,
    )
    assert result.exit_code == 0, result.stderr
    artifact = read(tiny_run.artifacts / f"peer1-trt-{precision}")
    assert artifact.file.read_bytes()[:4] == b"vtrt"
    assert artifact.manifest.get("calibration", {}).get("scheme") == ("s8s8" if precision == "int8" else None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_activation_without_end_is_an_error(value: float) -> None:
    with pytest.raises(LfdeployError, match="not finite on training pictures"):
        Spread().add(np.array([[1.0, value]], np.float32))


SLOW = {"1": {"ratio": 0.5, "low": 0.4, "high": 0.6}, "8": {"ratio": 0.8, "low": 0.7, "high": 0.9}}


def test_what_is_faster() -> None:
    assert "int8 is 0.50 times as fast as fp32 at batch 1 and 0.80 at batch 8, on this CPU" in in_words(SLOW)
    assert not faster(SLOW)
    assert not faster(SLOW | {"8": {"ratio": 1.05, "low": 1.0, "high": 1.1}})
    assert faster(SLOW | {"8": {"ratio": 1.1, "low": 1.0, "high": 1.2}})
    assert median_interval(np.array([2.0] * 9)) == (2.0, 2.0)


@pytest.mark.slow
def test_a_slow_file_is_published_and_says_so(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measured speed is set, since it depends on the processor; refused, kept and forced in turn."""
    monkeypatch.setattr("export.publish.speedup", lambda *given: SLOW)
    words = ["export", tiny_run.path, "--peer", 1, "--precision", "fp32,int8", "--out", tmp_path / "made"]
    refused = lf(*words, "--require-faster")
    assert (refused.exit_code, refused.stderr.count("Error")) == (1, 1)
    assert f"0.80 at batch 8, on this CPU ({instruction_set()}); --require-faster" in refused.stderr
    assert [place.name for place in (tmp_path / "made").iterdir()] == ["peer1-onnx-fp32"]
    kept = lf(*words, "--force")
    assert kept.exit_code == 0, kept.stderr
    assert "--force does nothing" in kept.stderr
    assert "0.50x at batch 1, 0.80x at batch 8" in kept.stdout
    assert "peer1-onnx-int8: slower than fp32 on this CPU" in kept.stderr
    manifest = read(tmp_path / "made" / "peer1-onnx-int8").manifest
    assert (manifest["speedup_over_fp32"], manifest["cpu"]) == (SLOW, instruction_set())
    assert "**slower than fp32 there**" in (tmp_path / "made" / "peer1-onnx-int8" / "README.md").read_text()


@pytest.mark.wide
def test_calibration_on_many_large_pictures_stays_small() -> None:
    """200 pictures of 224 px through ResNet-18, whose activations are 8 GB: below 1.5 GB in all, most of
    which is torch itself.
    """
    code = """
import json, pathlib, numpy as np, onnx, torch
from export.build.ranges import spreads, ranges, spreads
from export.build.graph import in_precision, to_onnx
from export.build.quantize import activations, batches
from lfdeploy.models import create
from lfdeploy.models.deploy import Classifier
torch.manual_seed(0)
classifier = Classifier(create("resnet18", 10).eval(), [0.5] * 3, [0.25] * 3).eval()
blob = to_onnx(in_precision(classifier, "fp32", 224), 224, (1, 8, 64), {})
model, random = onnx.load_from_string(blob), np.random.default_rng(0)
class Drawn:
    def __getitem__(self, index):
        return random.integers(0, 256, (len(index), 224, 224, 3), dtype=np.uint8)
found = spreads(model, activations(model.graph), batches(Drawn(), np.arange(200)))
# Not getrusage: its ru_maxrss outlives exec, so a fat parent's peak would be read as this process's.
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(json.dumps([int(status["VmHWM"].split()[0]), found["add"].pictures]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, pictures = json.loads(done.stdout)
    assert pictures == 200
    assert peak * 1024 < 1.5e9


@pytest.mark.slow
def test_the_calibrator_is_chosen_among_sure_answers_too(tiny_run: Run) -> None:
    """Logits a thousand times as large, as of a network that learnt easy classes by heart:

    KL alone sees no difference then.
    """
    classifier = tiny_run.classifier("peer1")
    head = [m for m in classifier.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    head.weight.data *= 1000
    head.bias.data *= 1000
    data = tiny_run.data()
    chosen = pick(data)
    blob = to_onnx(in_precision(classifier, "fp32", 16), 16, (1, 8, 64), {})
    _, told = quantize(blob, "u8s8", data)
    images = data.val.images[chosen.held_out]
    proto = onnx.load_from_string(blob)
    found = spreads(proto, activations(proto.graph), batches(data.train.images, chosen.calibration))
    exact = torch.from_numpy(logits_of(blob, images))
    sure = exact.abs().max() / 10
    divergence, distance = {}, {}
    for name in told["tries"]:
        logits = torch.from_numpy(logits_of(with_ranges(blob, ranges(found, name), "u8s8"), images))
        pair = [torch.log_softmax(values / sure, 1) for values in (logits, exact)]
        divergence[name] = torch.nn.functional.kl_div(*pair, reduction="batchmean", log_target=True).item()
        distance[name] = (logits - exact).abs().mean().item()
    assert divergence[told["calibrator"]] <= 1.05 * min(divergence.values()), divergence
    assert distance[told["calibrator"]] <= 0.5 * max(distance.values()), distance
