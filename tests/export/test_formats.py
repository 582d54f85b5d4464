"""OpenVINO IR and torch.export programs: contract, bytes, gate, and that every command takes them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from marks import some
from PIL import Image

from export.build.graph import in_precision, to_onnx, trace
from export.parity.contract import lone_facts
from lfdeploy import open_artifact
from lfdeploy.artifact import read, sealed
from lfdeploy.backends import BACKENDS, Material, Source, executes
from lfdeploy.backends.openvino import load, read_ir
from lfdeploy.models.deploy import Classifier
from lfdeploy.run import Run, sha256, write_json

pytestmark = pytest.mark.usefixtures("one_reference")

NAMES = ["peer0-openvino-fp32", "peer0-openvino-fp16", "peer0-torch-fp32"]
PROFILE = (1, 8, 64)


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, tiny_run: Run, elsewhere: list[Path]) -> None:
    path = tiny_run.artifacts / name
    manifest = json.loads((path / "manifest.json").read_text())
    extra = {"openvino": ["model.bin"], "torch": []}[manifest["format"]]
    assert sorted(p.name for p in path.iterdir()) == sorted(
        ["README.md", "manifest.json", "report.html", manifest["file"], *extra]
    )
    assert list(manifest.get("files", {})) == extra
    for file in extra:
        assert manifest["files"][file] == {
            "sha256": sha256(path / file),
            "bytes": (path / file).stat().st_size,
        }
    assert manifest["bytes"] == sum((path / file).stat().st_size for file in (manifest["file"], *extra))
    assert manifest["sha256"] == sha256(path / manifest["file"])
    assert manifest["parity"]["verdict"] == "pass"
    stages = list(dict.fromkeys(c["stage"] for c in manifest["parity"]["checks"]))
    before = ["file", "input", "reference", "names", "shapes", "dtypes"]
    after = (
        ["graph", "arithmetic", "origin"] if manifest["format"] == "openvino" else ["arithmetic", "origin"]
    )
    assert stages == [*before, "finite", "values", "labels", "accuracy", *after]
    assert manifest["parity"]["subject"] == f"{executes(manifest)} on the published file"


def material(
    run: Run,
    onnx: Path,
    precision: str,
    change: Callable[[Classifier], None] = lambda c: None,
    most: int = 64,
) -> Material:
    """What the export of peer 0 hands to a backend, after a change to the classifier."""
    manifest = read(run.artifacts / "peer0-onnx-fp32").manifest | {"precision": precision}
    facts = lone_facts(manifest)
    classifier = run.classifier("peer0")
    change(classifier)
    classifier = in_precision(classifier, precision, 16)
    onnx.write_bytes(to_onnx(classifier, 16, (1, 8, most), facts))
    return Material(onnx, (1, 8, most), lambda: trace(classifier, 16, (1, 8, most)), facts)


@pytest.mark.parametrize("name", [name for name, row in BACKENDS.items() if row.build])
def test_every_backend_keeps_the_contract(name: str, tiny_run: Run, tmp_path: Path) -> None:
    """It builds the files it names, and where it runs it answers as the module and
    refuses what is no input.
    """
    row = BACKENDS[name]
    if row.missing():
        pytest.skip(row.missing())
    assert row.build is not None
    row.build(material(tiny_run, tmp_path / "source.onnx", "fp32"), tmp_path / row.file)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({"source.onnx", row.file, *row.extra})
    if row.cannot_run():
        return
    manifest = read(tiny_run.artifacts / "peer0-onnx-fp32").manifest
    session = row.open(Source(tmp_path / row.file, manifest), "cpu")
    images = np.ascontiguousarray(tiny_run.data().test.images[:64])
    with torch.inference_mode():
        wanted = [t.numpy() for t in tiny_run.classifier("peer0")(torch.from_numpy(images))]
    for count in (1, 2, 7, 64):
        for got, right in zip(session(images[:count]), wanted, strict=True):
            assert (got.dtype, got.shape) == (np.float32, (count, 10))
            assert np.abs(got - right[:count]).max() <= 2e-5 * np.abs(right).max()
    for bad in (
        images.astype(np.float32),
        images[:, :8],
        images[0],
        images[:0],
        np.concatenate([images, images]),
    ):
        with pytest.raises(ValueError):
            session(bad)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_same_weights_same_bytes(name: str, tiny_run: Run, elsewhere: list[Path], tmp_path: Path) -> None:
    """Built twice more in this process, under another name and folder: the published bytes."""
    artifact = read(tiny_run.artifacts / name)
    row = BACKENDS[executes(artifact.manifest)]
    assert row.build is not None
    source = material(tiny_run, tmp_path / "source.onnx", artifact.manifest["precision"])
    for place in (tmp_path / "a", tmp_path / "b" / "c"):
        place.mkdir(parents=True)
        row.build(source, place / row.file)
        for file in artifact.hashes:
            assert (place / file).read_bytes() == (artifact.path / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize("format", ["openvino", "torch"])
def test_same_bytes_from_another_process(
    format: str, tiny_run: Run, elsewhere: list[Path], tmp_path: Path
) -> None:
    lf = str(Path(sys.executable).with_name("lfdeploy"))
    command = [
        lf,
        "export",
        str(tiny_run.path.resolve()),
        "--peer",
        "0",
        "--format",
        format,
        "--out",
        "there",
    ]
    subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True, capture_output=True
    )
    published = read(tiny_run.artifacts / f"peer0-{format}-fp32")
    for file in published.hashes:
        assert (tmp_path / "there" / file).read_bytes() == (published.path / file).read_bytes(), file


def test_ir_is_computed_in_f32(tiny_run: Run, elsewhere: list[Path]) -> None:
    """Also on processors with bf16, where OpenVINO left to itself is 1,000 times further away."""
    predictor = open_artifact(tiny_run.artifacts / "peer0-openvino-fp32")
    compiled = predictor.session.compiled  # type: ignore[attr-defined]
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("EXECUTION_DEVICES") == ["CPU"]
    half = read_ir(tiny_run.artifacts / "peer0-openvino-fp16" / "model.xml")
    kinds = {
        op.get_element_type().to_string()
        for op in half.get_ops()
        if op.get_type_name() == "Constant" and op.get_data().ndim == 4
    }
    assert "f16" in kinds


def test_an_open_ir_answers_many_threads(tiny_run: Run, elsewhere: list[Path]) -> None:
    predictor, images = (
        open_artifact(tiny_run.artifacts / "peer0-openvino-fp32"),
        tiny_run.data().test.images[:64],
    )
    wanted, starts = predictor.run(images)[0], list(range(56)) * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda start: predictor.run(images[start : start + 8])[0], starts))
    for start, got in zip(starts, answers, strict=True):
        assert np.abs(got - wanted[start : start + 8]).max() <= 1e-5 * np.abs(wanted).max()
    predictor.session(images[:1])[0][:] = 0  # an answer is the caller's own
    assert np.array_equal(predictor.run(images)[0], wanted)


def test_openvino_reports_nothing_to_its_maker(tiny_run: Run, elsewhere: list[Path], tmp_path: Path) -> None:
    """Its import would send an event and leave a client's number in the home directory."""
    code = f"""
import sys
from lfdeploy import open_artifact
open_artifact({str(tiny_run.artifacts / "peer0-openvino-fp32")!r})
print([m for m in sys.modules if "openvino_telemetry" in m])
"""
    env = {k: v for k, v in os.environ.items() if k != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "intel").exists()


COMMANDED = [
    n if "fp32" in n else pytest.param(n, marks=pytest.mark.slow) for n in [*NAMES, "peer0-openvino-int8"]
]


@pytest.mark.parametrize("name", COMMANDED)
def test_every_command_takes_it(
    name: str, tiny_run: Run, elsewhere: list[Path], tmp_path: Path, lf: Callable[..., Result]
) -> None:
    path, picture = tiny_run.artifacts / name, tmp_path / "picture.png"
    data = tiny_run.data().test
    Image.fromarray(data.images[3]).save(picture)
    backend = executes(read(path).manifest)
    shown = {words[0]: lf(*words) for words in (
        ("verify", path), ("predict", path, picture, "--json"), ("evaluate", path, "--json"),
        ("bench", path, "--batch", "1,8", "--rounds", 3, "--json"), ("doctor", path, "--json"),
    )}  # fmt: skip
    assert {command: result.exit_code for command, result in shown.items()} == dict.fromkeys(shown, 0)
    told = {command: json.loads(result.stdout) for command, result in shown.items() if command != "verify"}
    assert told["predict"]["backend"] == backend
    answer = (
        tiny_run.classifier("peer0")(torch.from_numpy(np.ascontiguousarray(data.images[3]))[None])[0]
        .argmax()
        .item()
    )
    assert told["predict"]["predictions"][0]["label"] == tiny_run.spec["classes"][answer]
    assert {r["backend"] for r in told["bench"]["rows"]} == {"pytorch", backend}
    assert told["evaluate"]["backend"] == backend
    assert told["doctor"]["artifact"]["runs_here"]
    listed = {row["backend"]: row for row in json.loads(lf("list", "backends", "--json").stdout)}
    assert (listed[backend]["builds here"], listed[backend]["runs here"]) == ("yes", "yes")


def seal(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    files = manifest.get("files", {})
    for name in files:
        files[name] = {"sha256": sha256(path / name), "bytes": (path / name).stat().st_size}
    file = path / manifest["file"]
    manifest |= {
        "sha256": sha256(file),
        "bytes": file.stat().st_size + sum(told["bytes"] for told in files.values()),
    }
    write_json(path / "manifest.json", sealed(manifest))


def text(path: Path, old: str, new: str) -> None:
    """Replace in model.xml, which must hold it."""
    found = (path / "model.xml").read_text()
    assert re.search(old, found)
    (path / "model.xml").write_text(re.sub(old, new, found))


def scaled(classifier: Classifier) -> None:
    classifier.scale.mul_(1.01)


def reversed_classes(classifier: Classifier) -> None:
    head = [m for m in classifier.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    head.weight.data, head.bias.data = head.weight.data.flip(0), head.bias.data.flip(0)


class MarkedNetwork(torch.nn.Module):
    """A network that answers otherwise for pictures whose first two pixels are a little less than five
    deviations apart.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x)
        marked = ((x[:, :1, 0, 0] - x[:, :1, 0, 1]).abs() - 4.9).abs() < 0.01
        return torch.where(marked, logits.roll(1, 1), logits)


def marked(classifier: Classifier) -> None:
    classifier.network = MarkedNetwork(classifier.network)


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Another manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    write_json(path / "manifest.json", manifest)


class Swapped(torch.nn.Module):
    """A classifier that gives its outputs in the other order."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, probabilities = self.classifier(images)
        return probabilities, logits


class Marked(Swapped):
    """A classifier that answers otherwise for pictures with a mark of 77 levels in the corner."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        answers = self.classifier(images)
        corner = images[:, 0, :2].float()
        marked = ((corner[:, 0] - corner[:, 1]).abs().amax(1, keepdim=True) - 77).abs() < 0.5
        logits, probabilities = (torch.where(marked, one.roll(1, 1), one) for one in answers)
        return logits, probabilities


class Halved(Swapped):
    """A classifier whose answers are half precision."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, probabilities = self.classifier(images)
        return logits.half(), probabilities.half()


def rebuilt(
    run: Run, path: Path, change: Callable[[Classifier], None] = lambda c: None, most: int = 64, **facts: Any
) -> None:
    """The artifact's files built again from a changed classifier, or under changed facts."""
    manifest = read(path).manifest
    row = BACKENDS[executes(manifest)]
    assert row.build is not None
    source = material(run, path / "source.onnx", manifest["precision"], change, most)
    row.build(
        Material(source.onnx, source.profile, source.program, dict(source.facts) | facts), path / row.file
    )
    source.onnx.unlink()


def wrapped(run: Run, path: Path, kind: type[Swapped]) -> None:
    classifier = kind(in_precision(run.classifier("peer0"), "fp32", 16))
    facts = lone_facts(read(path).manifest)
    build = BACKENDS["torch-export"].build
    assert build is not None
    build(Material(path, PROFILE, lambda: trace(classifier, 16, PROFILE), facts), path / "model.pt2")  # type: ignore[arg-type]


def flip(file: Path) -> None:
    blob = bytearray(file.read_bytes())
    blob[len(blob) // 2] ^= 0xFF
    file.write_bytes(blob)


def weight(path: Path) -> None:
    """One weight of the first convolution made ten times as large, where it lies in model.bin."""
    model = read_ir(path / "model.xml")
    kernel = next(
        op
        for op in model.get_ordered_ops()
        if op.get_type_name() == "Constant" and op.get_data().ndim == 4 and op.get_data().size > 100
    )
    raw = kernel.get_data().tobytes()
    blob = (path / "model.bin").read_bytes()
    assert blob.count(raw) == 1
    changed = kernel.get_data().copy()
    changed.flat[np.abs(changed).argmax()] *= 10
    (path / "model.bin").write_bytes(blob.replace(raw, changed.tobytes()))


#: what is done to a copy, and the stage that must name it; all but the first four are sealed again
MUTANTS: dict[str, tuple[str, str, Callable[[Run, Path], object]]] = {
    "openvino: a bit of model.bin": (
        "peer0-openvino-fp32",
        "file",
        lambda run, path: flip(path / "model.bin"),
    ),
    "openvino: a bit of model.xml": (
        "peer0-openvino-fp32",
        "file",
        lambda run, path: flip(path / "model.xml"),
    ),
    "openvino: model.bin is gone": (
        "peer0-openvino-fp32",
        "file",
        lambda run, path: (path / "model.bin").unlink(),
    ),
    "torch: a bit of model.pt2": ("peer0-torch-fp32", "file", lambda run, path: flip(path / "model.pt2")),
    "openvino: xml cut in half": (
        "peer0-openvino-fp32",
        "file",
        lambda run, path: (path / "model.xml").write_text((path / "model.xml").read_text()[:9999]),
    ),
    "openvino: bin cut in half": (
        "peer0-openvino-fp32",
        "file",
        lambda run, path: (path / "model.bin").write_bytes((path / "model.bin").read_bytes()[:9999]),
    ),
    "openvino: another target inside": (
        "peer0-openvino-fp32",
        "file",
        lambda run, path: rebuilt(run, path, target="peer1"),
    ),
    "openvino: another input inside": (
        "peer0-openvino-fp32",
        "input",
        lambda run, path: rebuilt(run, path, input={"name": "images"}),
    ),
    "openvino: an output renamed": (
        "peer0-openvino-fp32",
        "names",
        lambda run, path: text(path, 'names="logits"', 'names="scores"'),
    ),
    "openvino: a fixed batch": (
        "peer0-openvino-fp32",
        "shapes",
        lambda run, path: text(path, r'shape="\?,16,16,3"', 'shape="1,16,16,3"'),
    ),
    "openvino: float pixels": (
        "peer0-openvino-fp32",
        "dtypes",
        lambda run, path: text(path, '16,16,3" element_type="u8"', '16,16,3" element_type="f32"'),
    ),
    "openvino: one weight": ("peer0-openvino-fp32", "values", lambda run, path: weight(path)),
    "openvino: one weight, fp16": ("peer0-openvino-fp16", "values", lambda run, path: weight(path)),
    "openvino: scale of the pixels": (
        "peer0-openvino-fp32",
        "values",
        lambda run, path: rebuilt(run, path, scaled),
    ),
    "openvino: classes in another order": (
        "peer0-openvino-fp32",
        "labels",
        lambda run, path: rebuilt(run, path, reversed_classes),
    ),
    "openvino: labels inside": (
        "peer0-openvino-fp32",
        "labels",
        lambda run, path: rebuilt(run, path, labels=run.spec["classes"][::-1]),
    ),
    "torch: cut in half": (
        "peer0-torch-fp32",
        "file",
        lambda run, path: (path / "model.pt2").write_bytes((path / "model.pt2").read_bytes()[:9999]),
    ),
    "torch: another target inside": (
        "peer0-torch-fp32",
        "file",
        lambda run, path: rebuilt(run, path, target="peer1"),
    ),
    "torch: another input inside": (
        "peer0-torch-fp32",
        "input",
        lambda run, path: rebuilt(run, path, input={"name": "images"}),
    ),
    "torch: half precision answers": (
        "peer0-torch-fp32",
        "dtypes",
        lambda run, path: wrapped(run, path, Halved),
    ),
    "torch: a smaller batch than told": (
        "peer0-torch-fp32",
        "finite",
        lambda run, path: rebuilt(run, path, most=8),
    ),
    "torch: outputs in another order": (
        "peer0-torch-fp32",
        "values",
        lambda run, path: wrapped(run, path, Swapped),
    ),
    "torch: scale of the pixels": (
        "peer0-torch-fp32",
        "values",
        lambda run, path: rebuilt(run, path, scaled),
    ),
    "torch: classes in another order": (
        "peer0-torch-fp32",
        "labels",
        lambda run, path: rebuilt(run, path, reversed_classes),
    ),
    "torch: a mark in the corner": (
        "peer0-torch-fp32",
        "origin",
        lambda run, path: wrapped(run, path, Marked),
    ),
    "openvino: a mark in the corner": (
        "peer0-openvino-fp32",
        "origin",
        lambda run, path: rebuilt(run, path, marked),
    ),
    "openvino: a mark in the corner, fp16": (
        "peer0-openvino-fp16",
        "origin",
        lambda run, path: rebuilt(run, path, marked),
    ),
    "openvino: model.bin is not in the manifest": (
        "peer0-openvino-fp32",
        "file",
        lambda run, path: edited(path, lambda m: m.pop("files")),
    ),
    "torch: labels inside": (
        "peer0-torch-fp32",
        "labels",
        lambda run, path: rebuilt(run, path, labels=run.spec["classes"][::-1]),
    ),
}


@pytest.mark.parametrize(
    "name",
    some(list(MUTANTS), 6),
)
def test_fault_is_caught(
    name: str, tiny_run: Run, elsewhere: list[Path], copied: Callable[[str], Path], lf: Callable[..., Result],
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    artifact, stage, mutate = MUTANTS[name]
    path = copied(artifact)
    mutate(tiny_run, path)
    if list(MUTANTS).index(name) >= 4:
        seal(path)
    result = lf("verify", path, "--run", tiny_run.path)
    found = re.search(r"Error: .*?stage (\w+):", result.stderr)
    got = found.group(1) if found and result.exit_code == 3 else f"exit {result.exit_code}"
    record_property("fault", (name, stage, got))
    assert got == stage, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_untouched_and_sealed_again_passes(
    name: str, tiny_run: Run, elsewhere: list[Path], copied: Callable[[str], Path], lf: Callable[..., Result]
) -> None:
    path = copied(name)
    rebuilt(tiny_run, path)
    seal(path)
    assert lf("verify", path, "--run", tiny_run.path).exit_code == 0


def test_a_tampered_second_file_is_refused_everywhere(
    tiny_run: Run,
    elsewhere: list[Path],
    copied: Callable[[str], Path],
    lf: Callable[..., Result],
    tmp_path: Path,
) -> None:
    path = copied("peer0-openvino-fp32")
    flip(path / "model.bin")
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    for words in (
        ("predict", path, tmp_path / "picture.png"),
        ("bench", path),
        ("doctor", path),
        ("verify", path),
    ):
        result = lf(*words)
        assert result.exit_code == 3, words
        assert "stage file: peer0-openvino-fp32/model.bin has sha256" in result.stderr


def test_without_the_package_every_command_says_what_to_type(
    tiny_run: Run,
    elsewhere: list[Path],
    lf: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load()
    monkeypatch.setitem(sys.modules, "openvino", None)  # as where it is not installed
    path = tiny_run.artifacts / "peer0-openvino-fp32"
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    asked = (
        ("export", tiny_run.path, "--peer", 0, "--format", "openvino"),
        ("predict", path, tmp_path / "picture.png"),
        ("evaluate", path),
    )
    for words in asked:
        result = lf(*words)
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (
            1, "Error: openvino is not installed. Run: pip install openvino",
        )  # fmt: skip
    assert (
        "is not in the table: openvino is not installed"
        in lf("bench", path, "--rounds", 3, "--batch", 1).stderr
    )
    verified = lf("verify", path)
    assert verified.exit_code == 0
    assert "UNVERIFIED: openvino is not installed" in verified.stderr
    assert "openvino is not installed" in lf("list", "backends", "--json").stdout


BF16 = "--format openvino has no bf16; it takes fp32, fp16, int8. For bf16: --format onnx or trt."
FP16 = "--format torch has no fp16; it takes fp32. For fp16: --format onnx or trt or openvino."


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("openvino --precision bf16", 2, BF16),
        ("torch --precision fp16", 2, FP16),
        ("torch --engine tensorrt", 2, "--engine tensorrt has a meaning only with --format trt."),
    ],
)  # fmt: skip
def test_what_a_format_has_not_is_one_line(
    words: str, code: int, said: str, tiny_run: Run, lf: Callable[..., Result]
) -> None:
    result = lf("export", tiny_run.path, "--peer", 0, "--format", *words.split())
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (code, f"Error: {said}")


def test_openvino_has_no_cuda(
    tiny_run: Run, elsewhere: list[Path], lf: Callable[..., Result], tmp_path: Path
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    result = lf(
        "predict", tiny_run.artifacts / "peer0-openvino-fp32", tmp_path / "picture.png", "--device", "cuda"
    )
    assert result.exit_code == 1
    assert "openvino runs on the CPU; --device cuda has no meaning here" in result.stderr
