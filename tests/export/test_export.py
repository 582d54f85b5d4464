"""Artifacts as they are published: contract, bytes, cards, quarantine."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import Result
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

from export import export
from export.build.graph import fold
from export.independent.expected_weights import folded_pairs
from export.independent.halves import nature
from export.report.card import model_card
from export.report.page import page
from lfdeploy.artifact import read
from lfdeploy.backends import BACKENDS
from lfdeploy.config import ExportConfig
from lfdeploy.data import Split
from lfdeploy.errors import ParityError
from lfdeploy.images import prepare
from lfdeploy.models import create
from lfdeploy.models.deploy import Classifier
from lfdeploy.run import Run, sha256, write_json

ROOT = Path(__file__).parent.parent.parent


def test_contract_of_the_artifact(tiny_run: Run) -> None:
    for target in ("peer0", "peer1", "fused", "ensemble"):
        path = tiny_run.artifacts / f"{target}-onnx-fp32"
        manifest = json.loads((path / "manifest.json").read_text())
        assert sorted(p.name for p in path.iterdir()) == [
            "README.md",
            "manifest.json",
            "model.onnx",
            "report.html",
        ]
        assert manifest["sha256"] == sha256(path / "model.onnx")
        assert manifest["input"] | {"resize": 0} == {
            "name": "images",
            "dtype": "uint8",
            "layout": "NHWC",
            "height": 16,
            "width": 16,
            "resize": 0,
        }
        assert [o["name"] for o in manifest["outputs"]] == ["logits", "probabilities"]
        assert manifest["parity"]["verdict"] == "pass"
        assert [c["passed"] for c in manifest["parity"]["checks"]] == [True] * len(
            manifest["parity"]["checks"]
        )
        stages = list(dict.fromkeys(c["stage"] for c in manifest["parity"]["checks"]))
        before = ["file", "input", "reference", "names", "shapes", "dtypes"]
        assert stages == [*before, "finite", "values", "labels", "accuracy", "graph", "arithmetic", "origin"]
        onnx.checker.check_model(onnx.load(path / "model.onnx"), full_check=True)


@pytest.mark.wide
def test_same_weights_same_bytes_from_another_folder_in_another_process(
    tiny_run: Run, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(
        tiny_run.path, tmp_path / "a" / "b" / tiny_run.name, ignore=shutil.ignore_patterns("artifacts")
    )
    command = [str(Path(sys.executable).with_name("lfdeploy")), "export", str(elsewhere), "--fused"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    again = elsewhere / "artifacts" / "fused-onnx-fp32" / "model.onnx"
    assert again.read_bytes() == (tiny_run.artifacts / "fused-onnx-fp32" / "model.onnx").read_bytes()


def test_no_path_user_or_host_in_any_artifact(tiny_run: Run, elsewhere: list[Path]) -> None:
    secrets = [
        str(ROOT),
        str(tiny_run.path.parent),
        sys.prefix,
        str(Path.home()) + "/",
        "site-packages",
        os.sep + "tmp" + os.sep,
    ]
    # shorter ones occur by chance
    secrets += [name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 5]
    blobs = {str(f): f.read_bytes() for f in tiny_run.artifacts.rglob("*") if f.is_file()}
    zips = [f for path in elsewhere for f in path.glob("*.pt2")]
    for file in zips:
        with zipfile.ZipFile(file) as archive:
            blobs |= {f"{file}/{name}": archive.read(name) for name in archive.namelist()}
    assert len(blobs) >= 12 + 8 + 20
    for name, blob in blobs.items():
        for secret in secrets:
            assert secret.encode() not in blob, (name, secret)


def test_what_is_told_of_classes_is_what_training_found(tiny_run: Run) -> None:
    """In the manifest, and in the card with a row for each class."""
    path = tiny_run.artifacts / "fused-onnx-fp32"
    manifest, found = read(path).manifest, tiny_run.read("summary.json")["test"]
    for key in ("per_class_recall", "balanced", "macro_f1"):
        assert manifest["accuracy"][key] == pytest.approx(found[key])
    labels = tiny_run.data().test.labels
    assert manifest["accuracy"]["per_class_images"] == np.bincount(labels).tolist()
    section = (path / "README.md").read_text().split("## Class by class")[1].split("##")[0]
    rows = [line.split(" | ")[1] for line in section.splitlines() if line.startswith("| ")][2:]
    assert [float(cell.split()[0]) for cell in rows] == pytest.approx(
        sorted(found["per_class_recall"]), abs=0.05
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("width", "height"), [(33, 32), (100, 75), (331, 1000), (20, 31)])
def test_the_card_s_pixels_are_ours(
    width: int, height: int, mode: str, tiny_run: Run, tmp_path: Path
) -> None:
    """Whatever shape a picture has, however it is turned, and where a JPEG is decoded at a reduced scale."""
    text = (tiny_run.artifacts / "peer0-onnx-fp32" / "README.md").read_text().split("```python\n")[1]
    lines = text[text.index("image = ") : text.index("pixels = ")].replace("picture.png", "{place}")
    size = int(tiny_run.spec["image_size"])
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG")[: 1 if mode == "CMYK" else 2]:
        for turned in (1, 3, 6, 7):
            exif = Image.Exif()
            exif[274] = turned
            place = tmp_path / f"{turned}.{kind.lower()}"
            Image.fromarray(noise).convert(mode).save(place, exif=exif)
            known: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps}
            exec(lines.replace("{place}", str(place)), known)
            assert np.array_equal(np.asarray(known["image"]), prepare(place, size)), (kind, turned)


@pytest.mark.slow
def test_the_card_loads_the_model(tiny_run: Run, elsewhere: list[Path], tmp_path: Path) -> None:
    """In a folder of its own with nothing but the model's files, and where lfdeploy cannot be imported."""
    for path in (tiny_run.artifacts / "fused-onnx-fp32", tiny_run.artifacts / "peer0-onnx-fp32", *elsewhere):
        code = (path / "README.md").read_text().split("```python\n")[1].split("```")[0]
        assert len(code.splitlines()) <= 14
        said = {"onnx": "ORT_DISABLE_TELEMETRY=1", "openvino": "opt_in_out --opt_out"}
        assert said.get(read(path).manifest["format"], "") in (path / "README.md").read_text()
        pixels = tiny_run.data().test.images[3]
        place = tmp_path / path.name
        place.mkdir()
        Image.fromarray(pixels).save(place / "picture.png")
        for file in path.glob("model.*"):
            shutil.copy(file, place)
        code = f"import sys; sys.modules['lfdeploy'] = None\n{code}"
        env = os.environ | {"CI": "true"}  # openvino reports its import to its maker, but not from CI
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=place, env=env, capture_output=True, text=True, check=True
        )
        module = tiny_run.classifier(path.name.split("-")[0])
        answer = module(torch.from_numpy(np.ascontiguousarray(pixels))[None])[0].argmax().item()
        assert done.stdout.strip() == tiny_run.spec["classes"][answer], path.name


def test_the_report_is_a_page_of_its_own(tiny_run: Run) -> None:
    """Verdict, plot, pictures and every check; nothing is fetched, no class name is markup."""
    path = tiny_run.artifacts / "fused-onnx-fp32"
    text, parity = (
        (path / "report.html").read_text(),
        json.loads((path / "manifest.json").read_text())["parity"],
    )
    assert "<b>Pass.</b>" in text
    assert f"On {parity['statistics']['images']:,} test pictures" in text
    assert text.count("<figure>") == 8
    # every class agrees: no table of classes
    assert text.count("<tr><td>") == len(parity["checks"]) + len(parity["chain"]) + len(
        parity["not_examined"]
    )
    assert "In all 10 classes" in text
    assert not re.search(r"(src|href)='(?!data:)|url\(|@import|<script", text)
    rows = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    split = Split(np.zeros((20, 16, 16, 3), np.uint8), np.arange(20) % 2, "")
    manifest = read(path).manifest | {"labels": ["<b>a</b>", "b & c"]}
    for verdict, word in (("fail", "Do not ship it"), ("unverified", "its proof is not complete")):
        told = page(
            manifest, parity | {"verdict": verdict, "reason": "stage values: <x>"}, split, rows, -rows
        )
        assert word in told
        assert "&lt;b&gt;a&lt;/b&gt;" in told
        assert "<x>" not in told
        assert "another label" in told
        assert "Classes that agree least" in told


def test_lone_file_knows_its_labels(tiny_run: Run) -> None:
    session = ort.InferenceSession(
        tiny_run.artifacts / "peer0-onnx-fp32" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    told = json.loads(session.get_modelmeta().custom_metadata_map["lfdeploy"])
    assert told["labels"] == tiny_run.spec["classes"]
    assert told["target"] == "peer0"


@pytest.mark.parametrize(("arch", "kept"), [("densenet40_12_bc", 21), ("wrn40_1", 19)])
def test_a_map_that_others_read_too_is_not_folded_into(arch: str, kept: int) -> None:
    """Norms before a convolution stay, and one whose convolution a shortcut or a concatenation reads too."""
    torch.manual_seed(0)
    network = create(arch, 5).train()
    network(torch.randn(8, 3, 32, 32))
    network.eval()
    made, x = fold(network, 32), torch.randn(4, 3, 32, 32)
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) for net in (network, made)]
    assert norms[1] == kept
    with torch.no_grad():
        assert (made(x) - network(x)).abs().max() <= 1e-4 * network(x).abs().max()
    pairs = folded_pairs(Classifier(network, [0.5] * 3, [0.2] * 3).eval(), 32)
    assert len(pairs) == norms[0] - kept


@pytest.mark.parametrize("arch", ["resnet8", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2"])
def test_folding_leaves_no_norm_and_changes_no_answer(arch: str) -> None:
    torch.manual_seed(0)
    network = create(arch, 5)
    network.train()
    with torch.no_grad():
        network(torch.randn(8, 3, 64, 64))  # running statistics that differ from 0 and 1
    network.eval()
    folded = fold(network, 64)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(x), folded(x), atol=1e-4 * float(network(x).abs().max()))


@pytest.mark.slow
def test_overflow_in_half_precision_is_quarantined(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """Activations of 1e6 that the next layer scales back: exact in fp32, infinite in fp16, and ONNX Runtime's
    CPU hides it.
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
    (run.path / "reference.safetensors").unlink()  # of the weights that training kept
    write_json(run.path / "summary.json", run.read("summary.json") | {"reference": None})
    healthy = lf("export", run.path, "--peer", 0)
    assert healthy.exit_code == 0, healthy.stderr
    result = lf("export", run.path, "--peer", 0, "--precision", "fp16")
    assert result.exit_code == 3
    assert "stage finite" in result.stderr
    assert not (run.artifacts / "peer0-onnx-fp16").exists()
    reason = json.loads((run.artifacts / "quarantine" / "peer0-onnx-fp16" / "reason.json").read_text())
    assert reason["verdict"] == "fail"
    assert [c for c in reason["checks"] if not c["passed"]][0]["stage"] == "finite"
    assert (run.artifacts / "peer0-onnx-fp32" / "manifest.json").exists()  # what was published stays
    assert not list(run.artifacts.glob(".staging*"))


def test_engine_is_built_and_called_unverified(tiny_run: Run, lf: Callable[..., Result]) -> None:
    result = lf("export", tiny_run.path, "--peer", 0, "--format", "trt", "--engine", "tensorrt-rtx")
    assert result.exit_code == 0, result.stderr
    artifact = read(tiny_run.artifacts / "peer0-trt-fp32")
    assert sorted(p.name for p in artifact.path.iterdir()) == [
        "README.md",
        "manifest.json",
        "model.engine",
        "report.html",
    ]
    assert artifact.manifest["engine"]["package"] == "tensorrt-rtx"
    source = tiny_run.artifacts / "peer0-onnx-fp32" / "model.onnx"
    assert artifact.manifest["engine"]["source_sha256"] == sha256(source)
    if BACKENDS["tensorrt-rtx"].cannot_run():
        assert artifact.verdict == "unverified"
        assert "no NVIDIA GPU" in artifact.manifest["parity"]["reason"]
        assert "UNVERIFIED" in result.stderr.strip().splitlines()[-1]
        assert artifact.manifest["accuracy"]["measured_on"].startswith("onnxruntime on the ONNX file")
        again = lf(
            "export",
            tiny_run.path,
            "--peer",
            0,
            "--format",
            "trt",
            "--engine",
            "tensorrt-rtx",
            "--require-verified",
        )
        assert again.exit_code == 4
        later = lf("verify", artifact.path, "--json")
        assert later.exit_code == 0, later.stderr
        report = json.loads(later.stdout)
        # of the ONNX file, made again
        assert {"values", "graph", "arithmetic"} <= {check["stage"] for check in report["checks"]}
    assert sha256(artifact.file) == read(artifact.path).manifest["sha256"]
    assert artifact.file.read_bytes()[:4] == b"vtrt"  # a plain engine, no header of ours


@pytest.mark.slow
def test_export_again_replaces_in_one_step(tiny_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "there"
    first = export(ExportConfig(peer=0, out=str(out)), tiny_run)[0]
    second = export(ExportConfig(peer=0, out=str(out)), tiny_run)[0]
    assert first.manifest["sha256"] == second.manifest["sha256"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]


def test_probes_do_not_set_the_scale_of_pictures(tiny_run: Run) -> None:
    """Half precision's distance is counted on the scale of a picture's own kind: probes' logits may be ten
    times larger.
    """
    size = int(tiny_run.spec["image_size"])
    pictures = np.random.default_rng(3).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    classifier = tiny_run.classifier("peer0")
    with torch.inference_mode():
        logits = classifier(torch.from_numpy(pictures))[0].numpy()
    loud = logits * np.array([[1], [1], [1], [10], [10]], np.float32)
    scale = np.abs(loud).max(1, keepdims=True)
    # ten times too loud, and that is seen
    assert nature(classifier, "fp16", pictures, loud, scale).difference > 0.5
    assert (
        nature(classifier, "fp16", pictures, logits, np.abs(logits).max(1, keepdims=True)).difference < 0.02
    )


def test_a_module_that_is_not_what_training_measured_is_no_reference(
    tiny_run: Run, lf: Callable[..., Result], tmp_path: Path
) -> None:
    """Other mean and deviation in the run: file and module agree, and both are wrong."""
    run = Path(shutil.copytree(tiny_run.path, tmp_path / "runs" / "run"))
    write_json(
        run / "spec.json", json.loads((run / "spec.json").read_text()) | {"mean": [0.9] * 3, "std": [0.2] * 3}
    )
    result = lf("export", run, "--fused", "--out", tmp_path / "made")
    assert result.exit_code == 3, result.stderr
    assert "stage reference: the module's logits on probes, from those of training" in result.stderr
    assert not (tmp_path / "made").exists()


def test_bytes_that_changed_after_their_proof_are_not_published(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import pipeline

    proven = pipeline.in_fresh_process

    def then_broken(run: Run, staged: list[Path], data: str | None, *more: object) -> None:
        proven(run, staged, data, *more)
        (staged[0] / "model.onnx").write_bytes(bytes(1000))

    monkeypatch.setattr(pipeline, "in_fresh_process", then_broken)
    with pytest.raises(ParityError, match=r"stage file: .*model.onnx has sha256"):
        pipeline.export(ExportConfig(peer=0, out=str(tmp_path / "made")), tiny_run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        ({}, "359 test pictures (PyTorch"),
        ({"data": "fresh", "trained_on": 0}, "359 pictures of fresh, none of them trained on (PyTorch"),
        ({"data": "fresh", "trained_on": 12}, "359 pictures of fresh, 12 of them trained on (PyTorch"),
        ({"data": "fresh", "trained_on": None}, "359 pictures of fresh (PyTorch"),
    ],
)
def test_the_card_says_whose_pictures(tiny_run: Run, judged: dict[str, Any], words: str) -> None:
    manifest = read(tiny_run.artifacts / "peer0-onnx-fp32").manifest
    manifest["accuracy"] = manifest["accuracy"] | {"images": 359} | judged
    assert words in model_card(manifest)


def test_names_of_classes_are_no_markdown(tiny_run: Run) -> None:
    """Each row keeps its cells, whatever the names have in them."""
    manifest = read(tiny_run.artifacts / "peer0-onnx-fp32").manifest
    labels = ["a|b", "<b>", "*c*", "[d](e)", *manifest["labels"][4:]]
    plain = model_card(manifest).splitlines()
    card = model_card(manifest | {"labels": labels})
    assert all(name in card for name in (r"a\|b", r"\<b\>", r"\*c\*", r"\[d\](e)")) and "<b>" not in card
    for before, after in zip(plain, card.splitlines(), strict=True):
        assert after.replace(r"\|", "").count("|") == before.count("|")
