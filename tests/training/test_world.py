"""Several processes of one training: together they do what one does; one that dies ends all; a run goes on
with any number of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from lfdeploy.config import TrainConfig
from lfdeploy.data import Split
from lfdeploy.errors import UsageError
from training.augment import Augment
from training.batches import Batches
from training.methods import METHODS
from training.world import ALONE, World, check_together

SETTINGS = ["--arch", "resnet8", "--batch-size", "32", "--precision", "fp32", "--val-fraction", "0"]


def command(processes: int, *words: object) -> list[str]:
    """`lfdeploy train` in so many processes."""
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(many if processes > 1 else []), "-m", "lfdeploy", "train", *map(str, words)]


def trained(processes: int, *words: object) -> str:
    """What a training that ends well says on standard error."""
    done = subprocess.run(command(processes, *words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("augment", [Augment(2, True, 0), Augment(0, False, 12)])
def test_rows_make_up_the_batch(augment: Augment) -> None:
    """Pixel for pixel: the rows of three processes are those of one, in turn."""
    random = np.random.default_rng(0)
    split = Split(random.integers(0, 255, (30, 16, 16, 3), np.uint8), np.arange(30) % 5, "digest")
    whole = list(Batches(split, 12, augment, 7, "cpu", 2).epoch(1))
    parts = [list(Batches(split, 12, augment, 7, "cpu", 2, rows=(rank, 3)).epoch(1)) for rank in range(3)]
    for step, batch in enumerate(whole):
        for rank in range(3):
            part = parts[rank][step]
            assert torch.equal(part.labels, batch.labels[rank::3])
            assert torch.equal(part.index, batch.index[rank::3])
            for view, all_rows in zip(part.views, batch.views, strict=True):
                assert torch.equal(view, all_rows[rank::3])


def test_alone_nothing_is_exchanged() -> None:
    weight = torch.zeros(2, requires_grad=True)
    weight.grad = torch.ones(2)
    assert ALONE.first and ALONE.told == "" and ALONE.agree(None) is None
    assert ALONE.average([weight], False) is False and ALONE.average([weight], True) is True
    assert weight.grad.tolist() == [1, 1] and ALONE.agree(3) == 3


def test_what_several_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    three = World(0, 3)
    config = TrainConfig(batch_size=32)
    with pytest.raises(UsageError, match="multiple of 3"):
        check_together(three, config, METHODS["ffl"])
    config = replace(config, batch_size=33)
    with pytest.raises(UsageError, match="crd"):
        check_together(three, replace(config, method="crd"), METHODS["crd"])
    check_together(three, replace(config, method="rkd"), METHODS["rkd"])
    assert "compares the pictures of a batch" in (said := capsys.readouterr().err) and "--sync-bn" in said
    check_together(three, replace(config, sync_bn=True), METHODS["ffl"])
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ffl", pytest.param("lfmkd", marks=pytest.mark.wide)])
def test_two_processes_do_what_one_does(
    method: str, coloured_npz: Path, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """Losses of single steps to 1e-5, with BatchNorm over both; one table, one run, whole."""
    words = [*SETTINGS, "--data", coloured_npz, "--runs", tmp_path, "--method", method]
    words += ["--epochs", 3, "--steps", 1, "--lr", 0.002]
    assert lf("train", *words, "--name", "one").exit_code == 0
    said = trained(2, *words, "--sync-bn", "--name", "two")
    assert "2 processes" in said and said.count("epoch 1/3") == 1
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert abs(one - two) < 1e-5 * one
    ends = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two")]
    assert ends[0].keys() == ends[1].keys()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.wide)])
def test_one_that_dies_ends_all(
    rank: int, coloured_npz: Path, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """By one sentence, whichever it is; then the run goes on with one process or two, to the same losses."""
    words = [*SETTINGS, "--data", coloured_npz, "--runs", tmp_path, "--sync-bn", "--method", "ffl"]
    words += ["--epochs", 12, "--lr", 0.01, "--name", "run"]
    with subprocess.Popen(command(2, *words), stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        said = read_until(started.stderr.readline, "epoch  3/12")
        os.kill(pid_of(rank, str(tmp_path)), signal.SIGKILL)
        said += started.stderr.read()
    assert started.returncode != 0 and not (tmp_path / "run" / "summary.json").exists()
    assert said.count("Another process of this training has ended") == 1
    assert "training/loop.py" not in said  # torchrun shows a trace, its own
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert "Resuming at epoch" in lf("train", "--runs", tmp_path, "--resume", "run").stderr
    assert "2 processes" in trained(2, "--runs", tmp_path, "--resume", "copy")
    one, two = losses(tmp_path / "run"), losses(tmp_path / "copy")
    assert len(one) == len(two) == 12 and np.allclose(one, two, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.wide
def test_a_signal_stops_all_at_the_same_step(coloured_npz: Path, tmp_path: Path) -> None:
    """SIGTERM to torchrun: the state is saved once, and the run goes on from it."""
    words = [*SETTINGS, "--data", coloured_npz, "--runs", tmp_path, "--epochs", 12, "--name", "run"]
    with subprocess.Popen(command(2, *words), stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        read_until(started.stderr.readline, "epoch  2/12")
        started.send_signal(signal.SIGTERM)
        said = started.stderr.read()
    assert said.count("Interrupted; the state is saved") == 1
    assert "Resuming at epoch" in trained(2, "--runs", tmp_path, "--resume", "run")


def read_until(line: Callable[[], str], begin: str) -> str:
    """Lines up to one that begins so."""
    said = ""
    for text in iter(line, ""):
        said += text
        if text.startswith(begin):
            return said
    raise AssertionError(said)


def pid_of(rank: int, mark: str) -> int:
    """The process of a rank among those whose command line has the mark."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in line and f"\0RANK={rank}\0".encode() in environment:
            return int(place.name)
    raise AssertionError(f"no process of rank {rank}")
