"""What the gate says of what it cannot examine, and what a run testifies of itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result

from export import export
from export.parity.accuracy import told
from export.parity.reference import training_pictures
from export.prove import prove, verify
from lfdeploy.artifact import read, sealed
from lfdeploy.backends import BACKENDS
from lfdeploy.config import ExportConfig
from lfdeploy.recorded_logits import FILE, chosen, probe_pixels
from lfdeploy.recorded_logits import read as read_recorded
from lfdeploy.run import Run, sha256, write_json


@pytest.mark.parametrize("name", [name for name, row in BACKENDS.items() if row.build])
def test_every_row_says_how_its_file_is_read_or_why_not(name: str) -> None:
    row = BACKENDS[name]
    assert row.facts or row.opaque
    assert row.difference or row.opaque


def test_a_format_that_nobody_reads_is_unverified(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes under another name, by a row as a newcomer would write it."""
    onnx = BACKENDS["onnxruntime"]
    row = replace(onnx, format="ort", file="model.bin", facts=None, difference=None, opaque="")
    monkeypatch.setitem(BACKENDS, "ort", row)
    folder = tmp_path / "peer0-ort-fp32"
    shutil.copytree(tiny_run.artifacts / "peer0-onnx-fp32", folder)
    (folder / "model.onnx").rename(folder / "model.bin")
    manifest = read(folder).manifest | {"format": "ort", "file": "model.bin"}
    write_json(folder / "manifest.json", sealed(manifest))
    report = prove(tiny_run, [read(folder)])[0]
    assert report.verdict == "unverified"
    assert "nothing here reads" in report.reason
    unexamined = {one.stage for one in report.not_examined}
    assert unexamined == {"file", "names", "shapes", "dtypes", "graph", "arithmetic", "origin"}
    assert {check.stage for check in report.checks} >= {"reference", "values", "accuracy"}
    assert [one["stage"] for one in report.document()["not_examined"]][0] == "file"


def test_what_was_not_examined_is_in_manifest_table_and_report(
    tiny_run: Run, copied: Callable[[str], Path], lf: Callable[..., Result]
) -> None:
    path = copied("peer0-onnx-fp32")
    manifest = read(path).manifest
    manifest["versions"] |= {"torch": "0.1"}
    write_json(path / "manifest.json", sealed(manifest))
    result = lf("verify", path, "--run", tiny_run.path)
    assert result.exit_code == 0, result.stderr
    assert "not examined: the file is not made again" in " ".join(result.stdout.split())
    document = json.loads(lf("verify", path, "--run", tiny_run.path, "--json").stdout)
    assert [one["stage"] for one in document["not_examined"]] == ["origin"]


def test_a_published_file_was_examined_whole(tiny_run: Run) -> None:
    parity = read(tiny_run.artifacts / "fused-onnx-fp32").manifest["parity"]
    assert parity["not_examined"] == []
    stages = list(dict.fromkeys(check["stage"] for check in parity["checks"]))
    before = ["file", "input", "reference", "names", "shapes", "dtypes"]
    assert stages == [*before, "finite", "values", "labels", "accuracy", "graph", "arithmetic", "origin"]


def test_training_testifies(tiny_run: Run) -> None:
    recorded = read_recorded(tiny_run)
    assert recorded is not None
    assert set(recorded.logits) == set(recorded.probe_logits) == {"peer0", "peer1", "fused", "ensemble"}
    assert len(recorded.digests) == 64
    assert {z.shape for z in recorded.logits.values()} == {(64, 10)}
    assert np.array_equal(recorded.probes, probe_pixels(16))
    assert recorded.facts["classes"] == tiny_run.spec["classes"]
    digests = [digest.decode() for digest in tiny_run.data().test.digests[chosen(359)].tolist()]
    assert list(recorded.digests) == digests


def without(change: Callable[[Path], None], tiny_run: Run, place: Path) -> Any:
    run = Path(shutil.copytree(tiny_run.path, place / "run"))
    change(run)
    return verify(read(run / "artifacts" / "peer0-onnx-fp32"), run=str(run))


def test_an_older_run_is_examined_without_its_word(tiny_run: Run, tmp_path: Path) -> None:
    def forget(run: Path) -> None:
        (run / FILE).unlink()
        write_json(run / "summary.json", json.loads((run / "summary.json").read_text()) | {"reference": None})

    report = without(forget, tiny_run, tmp_path)
    assert report.verdict == "pass"
    assert [one.reason.endswith("trained by an older lfdeploy") for one in report.not_examined] == [True]


def test_a_word_that_was_given_and_is_gone_fails(tiny_run: Run, tmp_path: Path) -> None:
    report = without(lambda run: (run / FILE).unlink(), tiny_run, tmp_path)
    assert (report.verdict, report.reason.split(":")[0]) == ("fail", "stage reference")


def test_a_damaged_record_fails(tiny_run: Run, tmp_path: Path) -> None:
    report = without(lambda run: (run / FILE).write_bytes(b"x" * 100), tiny_run, tmp_path)
    assert (report.verdict, report.reason.split(":")[0]) == ("fail", "stage reference")


def test_other_pictures_leave_the_probes(tiny_run: Run, coloured_ten: Path) -> None:
    report = verify(
        read(tiny_run.artifacts / "peer0-onnx-fp32"), run=str(tiny_run.path), data=str(coloured_ten)
    )
    assert report.verdict == "pass"
    assert any("probes alone" in one.reason for one in report.not_examined)
    names = [check.name for check in report.checks if check.stage == "reference"]
    assert any("on probes" in name for name in names)


@pytest.fixture
def coloured_ten(tmp_path: Path) -> Path:
    """Pictures that no run knows, under the digits' names."""
    random = np.random.default_rng(5)
    labels = np.arange(60) % 10
    pictures = random.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "other.npz", train_x=pictures, train_y=labels, test_x=pictures[:40], test_y=labels[:40],
        classes=np.array(list("0123456789")),
    )  # fmt: skip
    return tmp_path / "other.npz"


def test_a_network_at_chance_is_published_with_a_warning(tmp_path: Path, lf: Callable[..., Result]) -> None:
    from lfdeploy.config import TrainConfig
    from training import train

    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 80), ("test", 40)):
        arrays |= {
            f"{split}_x": random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8),
            f"{split}_y": np.arange(count) % 2,
        }
    np.savez(tmp_path / "noise.npz", classes=np.array(["a", "b"]), **arrays)
    config = TrainConfig(
        data=str(tmp_path / "noise.npz"), arch="resnet8", peers=1, method="independent", epochs=1, lr=1e-6
    )
    run = train(config, name="chance", runs=tmp_path / "runs")
    assert not run.read("summary.json")["chance"]["peer0"]["above"]
    artifact = export(ExportConfig(peer=0), run)[0]
    assert not artifact.manifest["accuracy"]["chance"]["above"]
    for page in ("README.md", "report.html"):
        assert "most frequent class" in (artifact.path / page).read_text(encoding="utf-8")
    evaluated = lf("evaluate", run.path)
    assert "most frequent class" in evaluated.stdout + evaluated.stderr


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_a_healthy_int8_file_passes_on_few_pictures(
    count: int, int8_artifact: Path, tiny_run: Run, lf: Callable[..., Result]
) -> None:
    result = lf("verify", int8_artifact, "--images", count)
    assert result.exit_code == 0, result.stderr


def test_and_on_many_of_which_some_go_beyond_every_range(
    int8_artifact: Path, tiny_run: Run, tmp_path: Path
) -> None:
    data = tiny_run.data()
    parts = [data.split(name) for name in ("train", "val", "test")]
    pictures, labels = (
        np.concatenate([np.asarray(p.images) for p in parts]),
        np.concatenate([p.labels for p in parts]),
    )
    np.savez(tmp_path / "all.npz", train_x=pictures[50:], train_y=labels[50:], classes=np.array(data.classes))
    report = verify(read(int8_artifact), run=str(tiny_run.path), data=str(tmp_path / "all.npz"))
    assert report.verdict == "pass", report.reason
    assert {one.stage for one in report.not_examined} == {"calibration", "origin"}


def test_ranges_are_examined_on_pictures_that_did_not_calibrate_first(tiny_run: Run) -> None:
    data = tiny_run.data()
    named = {digest.decode() for digest in data.train.digests.tolist()[5:]}
    shown = training_pictures(data, named)
    assert len(shown) == 64
    assert all(
        any(np.array_equal(picture, one) for one in shown) for picture in np.asarray(data.train.images[:5])
    )
    assert len(training_pictures(data, set())) == 64


def test_accuracy_on_others_pictures_is_compared_with_no_others(tiny_run: Run) -> None:
    found: Any = SimpleNamespace(images=200, top1=80.0, top1_reference=80.0)
    accuracy = {"images": 200, "top1": 60.0, "top1_reference": 60.0}
    assert not all(check.passed for check in told({"accuracy": accuracy}, found, "fp32", True))
    assert not list(told({"accuracy": accuracy | {"data": "theirs", "trained_on": 0}}, found, "fp32", True))


def test_a_file_that_breaks_the_examination_itself_fails(
    int8_artifact: Path, copied: Callable[[str], Path], lf: Callable[..., Result], tiny_run: Run
) -> None:
    """A scale that is a node, as no file of ours has it."""
    path = copied(int8_artifact.name)
    model = onnx.load(path / "model.onnx")
    scale = next(t for t in model.graph.initializer if t.name.endswith("add_scale"))
    model.graph.initializer.remove(scale)
    name, scale.name = scale.name, ""
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=scale))
    onnx.save(model, path / "model.onnx")
    manifest = read(path).manifest | {
        "sha256": sha256(path / "model.onnx"),
        "bytes": (path / "model.onnx").stat().st_size,
    }
    write_json(path / "manifest.json", sealed(manifest))
    result = lf("verify", path, "--run", tiny_run.path)
    assert result.exit_code == 3, result.stderr
    assert "can be examined" in result.stderr
