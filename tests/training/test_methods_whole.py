"""Every method the whole way: trained, killed and resumed to the same bits, exported with a passing gate.

Long: marked slow.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import export, verify
from lfdeploy.artifact import read
from lfdeploy.config import ExportConfig, TrainConfig
from lfdeploy.errors import UsageError
from lfdeploy.models.targets import layout_of
from lfdeploy.run import Run
from training import train
from training.methods import METHODS

pytestmark = pytest.mark.slow
CASES = [(method, ()) for method in METHODS]
CASES += [
    pytest.param("kdcl", (("target", "general"),), marks=pytest.mark.wide),
    pytest.param("lfmkd", (("aux_of", "peer"),), marks=pytest.mark.wide),
    pytest.param("lfmkd", (("knowledge", "both"), ("attn", "bilinear")), marks=pytest.mark.wide),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes told apart by colour, 240 training pictures of 16 px, 60 to test."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {"classes": np.array(["red", "green", "blue"])}
    for split, count in (("train", 240), ("test", 60)):
        labels = np.arange(count) % 3
        colours = 60 + 90 * np.eye(3, dtype=np.int64)[labels][:, None, None, :]
        arrays[f"{split}_x"] = (colours + draw.integers(-60, 60, (count, 16, 16, 3))).astype(np.uint8)
        arrays[f"{split}_y"] = labels
    place = tmp_path_factory.mktemp("data") / "colours.npz"
    np.savez(place, **arrays)
    return place


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = TrainConfig(
        data=str(data), arch="resnet14", peers=1, method="independent", epochs=2, batch_size=32, lr=0.05
    )
    return train(config, "teacher", tmp_path_factory.mktemp("teacher"))


# Forks for every line that it reads, while nothing but imports has run: a child that trains, and that kills
# itself in its ninth step, which is in the second epoch.
MORTALS = """
import json, os, signal, sys
from pathlib import Path
from lfdeploy.config import TrainConfig
from training import train
from training.engine import Engine

def lethal(step, count=[]):
    def counted(self, *given):
        count.append(1)
        if len(count) == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *given)
    return counted

for line in sys.stdin:
    values, place = json.loads(line)
    child = os.fork()
    if child == 0:
        Engine.step = lethal(Engine.step)
        train(TrainConfig(**values | {"option": tuple(map(tuple, values["option"]))}), "cut", Path(place))
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def mortals() -> Iterator[subprocess.Popen[str]]:
    """A process that trains what it is told to, until half of the second epoch."""
    command = [sys.executable, "-c", MORTALS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def train_until_killed(mortals: subprocess.Popen[str], config: TrainConfig, runs: Path) -> Run:
    assert mortals.stdin is not None
    assert mortals.stdout is not None
    mortals.stdin.write(json.dumps([asdict(config), str(runs)]) + "\n")
    mortals.stdin.flush()
    assert os.waitstatus_to_exitcode(int(mortals.stdout.readline())) == -signal.SIGKILL
    return Run(runs / "cut")


def named(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(choice for _, choice in value)


@pytest.mark.parametrize(("method", "options"), CASES, ids=named)
@pytest.mark.parametrize("arch", ["resnet8", pytest.param("wrn16_2", marks=pytest.mark.wide)])
def test_the_whole_way(
    arch: str,
    method: str,
    options: tuple[tuple[str, str], ...],
    data: Path,
    teacher: Run,
    mortals: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    config = TrainConfig(
        data=str(data),
        arch=arch,
        method=method,
        option=options,
        epochs=2,
        batch_size=32,
        lr=0.05,
        precision="fp32",
        teacher=str(teacher.path) if METHODS[method].teachers else None,
    )
    run = train(config, "whole", tmp_path)
    resumed = train(config, runs=tmp_path, resume=train_until_killed(mortals, config, tmp_path))
    one, other = run.tensors(), resumed.tensors()
    assert set(one) == set(other)
    if run.read("summary.json")["device"] == "cpu":  # what CUDA gives is tests/gpu's to find
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
        assert run.read("summary.json")["test"] == resumed.read("summary.json")["test"]
    # the others of what it ships: under another architecture
    for target in layout_of(run.spec).ships[: 1 if arch == "resnet8" else None]:
        artifact = export(ExportConfig(target=target), run)[0]
        assert artifact.verdict == "pass", artifact.manifest["parity"]["reason"]
        assert verify(read(artifact.path), run=str(run.path)).verdict == "pass"


def test_one_teacher_several_students_and_several_teachers(data: Path, teacher: Run, tmp_path: Path) -> None:
    common: dict[str, Any] = {"data": str(data), "arch": "resnet8", "epochs": 1, "batch_size": 32, "lr": 0.05}
    first = train(TrainConfig(method="kd", teacher=str(teacher.path), peers=2, **common), "two", tmp_path)
    assert list(layout_of(first.spec).targets) == ["peer0", "peer1", "ensemble"]
    both = ",".join(str(run.path) for run in (teacher, first))
    second = train(
        TrainConfig(method="kd", teacher=both, option=(("relative", "1"),), **common), "taught", tmp_path
    )
    assert not any(name.startswith("teacher") for name in second.tensors())
    artifact = export(ExportConfig(all=True, single_file=True), first)[0]
    assert artifact.verdict == "pass"


def test_an_artifact_without_its_run_gives_logits_alone(data: Path, teacher: Run, tmp_path: Path) -> None:
    """Its file teaches as its run does; a method that needs inner maps refuses it."""
    alone = export(ExportConfig(peer=0, out=str(tmp_path / "elsewhere" / "alone")), teacher)[0].path
    common: dict[str, Any] = {
        "data": str(data), "arch": "resnet8", "peers": 1, "epochs": 1, "batch_size": 32, "lr": 0.05,
        "precision": "fp32",
    }  # fmt: skip
    by_file = train(TrainConfig(method="kd", teacher=str(alone), **common), "by_file", tmp_path)
    by_run = train(TrainConfig(method="kd", teacher=str(teacher.path), **common), "by_run", tmp_path)
    losses = [json.loads((run.path / "metrics.jsonl").read_text())["loss"] for run in (by_file, by_run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(UsageError, match="name a run, or an artifact of one peer beside its run"):
        train(TrainConfig(method="fitnets", teacher=str(alone), **common), "hints", tmp_path)
    assert not (tmp_path / "hints").exists()
