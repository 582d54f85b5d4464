"""What the gate says of what it cannot examine, and what a run testifies of itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from export import export
from export.prove import prove, verify
from lfdeploy.artifact import read, sealed
from lfdeploy.backends import BACKENDS
from lfdeploy.config import ExportConfig
from lfdeploy.recorded import FILE, chosen, probe_pixels
from lfdeploy.recorded import read as read_recorded
from lfdeploy.run import Run, write_json


@pytest.mark.parametrize("name", [name for name, row in BACKENDS.items() if row.build])
def test_every_row_says_how_its_file_is_read_or_why_not(name: str) -> None:
    row = BACKENDS[name]
    assert row.facts or row.opaque
    assert row.difference or row.opaque


def test_a_format_that_nobody_reads_is_unverified(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    report = without(lambda run: (run / FILE).unlink(), tiny_run, tmp_path)
    assert report.verdict == "pass"
    assert [one.reason.endswith("trained by an older lfdeploy") for one in report.not_examined] == [True]


def test_a_damaged_record_fails(tiny_run: Run, tmp_path: Path) -> None:
    report = without(lambda run: (run / FILE).write_bytes(b"x" * 100), tiny_run, tmp_path)
    assert (report.verdict, report.reason.split(":")[0]) == ("fail", "stage reference")


def test_other_pictures_leave_the_probes(tiny_run: Run, coloured_ten: Path) -> None:
    report = verify(read(tiny_run.artifacts / "peer0-onnx-fp32"), run=str(tiny_run.path), data=str(coloured_ten))
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
        arrays |= {f"{split}_x": random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8), f"{split}_y": np.arange(count) % 2}
    np.savez(tmp_path / "noise.npz", classes=np.array(["a", "b"]), **arrays)
    config = TrainConfig(data=str(tmp_path / "noise.npz"), arch="resnet8", peers=1, method="independent", epochs=1, lr=1e-6)
    run = train(config, name="chance", runs=tmp_path / "runs")
    assert not run.read("summary.json")["chance"]["peer0"]["above"]
    artifact = export(ExportConfig(peer=0), run)[0]
    assert not artifact.manifest["accuracy"]["chance"]["above"]
    assert "most frequent class" in (artifact.path / "README.md").read_text(encoding="utf-8")
    evaluated = lf("evaluate", run.path)
    assert "most frequent class" in evaluated.stdout + evaluated.stderr
