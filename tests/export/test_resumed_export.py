"""An export that is killed goes on where it was, to the same bytes; several precisions share one proof."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from export import export
from lfdeploy.artifact import read
from lfdeploy.config import ExportConfig
from lfdeploy.run import Run, sha256


@pytest.fixture
def fresh(tiny_run: Run, tmp_path: Path) -> Run:
    return Run(
        Path(
            shutil.copytree(
                tiny_run.path, tmp_path / "runs" / tiny_run.name, ignore=shutil.ignore_patterns("artifacts")
            )
        )
    )


def hidden(run: Run) -> list[str]:
    return sorted(p.name for p in run.artifacts.iterdir() if p.name.startswith("."))


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize("moment", ["Exporting fused", "Parity in a fresh process"])
def test_killed_and_run_again(tiny_run: Run, fresh: Run, moment: str) -> None:
    """kill -9 of the whole process group when a stage begins: what was finished is not made again, the bytes
    are the same.
    """
    command = [str(Path(sys.executable).with_name("lfdeploy")), "export", str(fresh.path), "--all"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(moment):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    assert not list(fresh.artifacts.glob("[!.]*"))
    finished = [p for p in fresh.artifacts.glob(".*onnx*") if (p / "manifest.json").exists()]
    stamps = {p.name: (p / "model.onnx").stat().st_mtime_ns for p in finished}
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stderr.count("built already") == len(finished) == (2 if "fused" in moment else 4)
    assert hidden(fresh) == []
    for target in ("peer0", "peer1", "fused", "ensemble"):
        name = f"{target}-onnx-fp32"
        assert sha256(fresh.artifacts / name / "model.onnx") == sha256(
            tiny_run.artifacts / name / "model.onnx"
        )
        assert sorted(p.name for p in (fresh.artifacts / name).iterdir()) == [
            "README.md",
            "manifest.json",
            "model.onnx",
            "report.html",
        ]
        kept = [stamp for old, stamp in stamps.items() if old.startswith(f".{name}.")]
        assert kept in ([], [(fresh.artifacts / name / "model.onnx").stat().st_mtime_ns])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["Exporting peer0", "Parity in a fresh process"])
def test_ctrl_c(fresh: Run, moment: str) -> None:
    """A terminal sends it to every process of the group; one line of each is enough, and no trace."""
    command = [str(Path(sys.executable).with_name("lfdeploy")), "export", str(fresh.path), "--peer", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(moment):
            os.killpg(process.pid, signal.SIGINT)
            break
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "Interrupted."
    kept = [name for name in hidden(fresh) if "onnx" in name]
    assert len(kept) == (1 if moment.startswith("Parity") else 0)


@pytest.mark.slow
@pytest.mark.fresh_process
def test_a_finished_proof_is_not_made_again(
    fresh: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted between parity and publication; what another setting left behind is swept away, other
    folders are not.
    """
    import export.pipeline as pipeline

    other = fresh.artifacts / ".peer0-onnx-fp32.keep"
    stale = fresh.artifacts / ".peer0-onnx-fp32.0123456789ab"
    for place in (other, stale):
        place.mkdir(parents=True)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "publish_proven", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(ExportConfig(peer=0), fresh)
    assert other.exists()
    assert not stale.exists()
    capsys.readouterr()
    made = export(ExportConfig(peer=0), fresh)
    said = capsys.readouterr().err
    assert "built already" in said
    assert "Parity in a fresh process" not in said
    assert made[0].verdict == "pass"
    assert hidden(fresh) == [other.name]


@pytest.mark.slow
def test_several_precisions_at_once(fresh: Run, lf: Callable[..., Result]) -> None:
    result = lf("export", fresh.path, "--peer", 1, "--precision", "fp32,fp16", "--json")
    assert result.exit_code == 0, result.stderr
    assert [m["precision"] for m in json.loads(result.stdout)] == ["fp32", "fp16"]
    assert read(fresh.artifacts / "peer1-onnx-fp16").verdict == "pass"
    assert lf("export", fresh.path, "--peer", 1, "--precision", "fp32,fp8").exit_code == 2
