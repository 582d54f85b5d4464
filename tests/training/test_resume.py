"""A run that was interrupted, at any moment, ends with the same weights, bit for bit, as one that was not."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image

from lfdeploy.config import TrainConfig
from lfdeploy.errors import Interrupted, LfdeployError
from lfdeploy.exit_codes import exit_code
from lfdeploy.run import Run
from training import checkpoint, finish, loop, train
from training.engine import Engine

DEADLINE = 300.0


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def scores(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text())
    return {key: summary[key] for key in ("kept_epoch", "epochs", "val", "test", "test_last")}


def assert_same(run: Path, reference: Path) -> None:
    assert metrics(run) == metrics(reference)
    assert scores(run) == scores(reference)
    assert (run / "model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()


# ---------------------------------------------------------------- in this process, at chosen steps

STEPS, EPOCHS = 5, 2


def write_coloured(path: Path, seed: int = 0, train: int = 90) -> Path:
    """Three classes that differ by colour: training pictures of 16x16, of which a tenth is held out, 30
    for testing.
    """
    draw = np.random.default_rng(seed)
    arrays = {"classes": np.array(["red", "green", "blue"])}
    for split, count in (("train", train), ("test", 30)):
        labels = np.arange(count) % 3
        colours = 60 + 90 * np.eye(3, dtype=np.int64)[labels][:, None, None, :]
        arrays[f"{split}_x"] = (colours + draw.integers(-60, 60, (count, 16, 16, 3))).astype(np.uint8)
        arrays[f"{split}_y"] = labels
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    path = write_coloured(tmp_path_factory.mktemp("data") / "coloured.npz")
    return TrainConfig(
        data=str(path),
        image_size=16,
        arch="resnet8",
        epochs=EPOCHS,
        batch_size=16,
        precision="fp32",
        device="cpu",
    )


@pytest.fixture(scope="module")
def reference(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(config, "whole", tmp_path_factory.mktemp("reference"))


def during_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Call ``act`` in the training step of that number, counted from 1 in this process."""
    step, count = Engine.step, 0

    def counted(self: Engine, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            act()
        return step(self, *args)

    monkeypatch.setattr(Engine, "step", counted)


MOMENTS = {
    "first": 1,
    "middle": 3,
    "last but one": 4,
    "last of epoch": STEPS,
    "next epoch": STEPS + 1,
    "very last": EPOCHS * STEPS,
}


MANY = [("middle", "SIGINT"), ("middle", "SIGTERM")]
MANY += [pytest.param(moment, "SIGTERM", marks=pytest.mark.slow) for moment in MOMENTS if moment != "middle"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("step", "signals"), MANY)
def test_a_signal_ends_the_step_saves_and_resumes(
    step: str,
    signals: str,
    config: TrainConfig,
    reference: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        during_step(patch, MOMENTS[step], lambda: signal.raise_signal(signal.Signals[signals]))
        with pytest.raises(Interrupted, match="lfdeploy train --resume") as caught:
            train(config, "cut", tmp_path)
    assert exit_code(caught.value) == 130
    assert str(tmp_path / "cut") in str(caught.value)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    run = Run(tmp_path / "cut")
    with pytest.raises(LfdeployError, match="--resume"):
        run.finished()
    assert train(config, resume=run).path == run.path
    assert_same(run.path, reference.path)


class Killed(BaseException):
    """As sudden as kill -9: nothing in the loop handles it."""


def die() -> None:
    raise Killed


PLACES = [
    "before any step",
    "in a step",
    "before the weights are kept",
    "before the metrics line",
    "before the checkpoint",
    "in the summary",
]


@pytest.mark.parametrize(
    "place", [PLACES[0], *(pytest.param(place, marks=pytest.mark.slow) for place in list(PLACES)[1:])]
)
def test_sudden_death_at_every_place_of_an_epoch(
    place: str, config: TrainConfig, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments of the second epoch between which files on disk change."""

    def lethal(real: Callable[..., Any], call: int) -> Callable[..., Any]:
        calls = iter(range(1, 100))

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == call:
                die()
            return real(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        if place == "before any step":
            during_step(patch, 1, die)
        elif place == "in a step":
            during_step(patch, STEPS + 3, die)
        elif place == "before the weights are kept":
            patch.setattr(loop, "evaluate_cohort", lethal(loop.evaluate_cohort, 2))
        elif place == "before the metrics line":
            patch.setattr(loop.metrics, "append", lethal(loop.metrics.append, 2))
        elif place == "before the checkpoint":
            patch.setattr(checkpoint, "save", lethal(checkpoint.save, 2))
        else:
            patch.setattr(finish, "write_json", lambda *args: die())
        with pytest.raises(Killed):
            train(config, "cut", tmp_path)
    run = Run(tmp_path / "cut")
    assert not (run.path / "summary.json").exists()
    train(config, resume=run)
    assert_same(run.path, reference.path)


@pytest.mark.parametrize(
    "tail", [b'{"epoch": 2, "lo', pytest.param(b"", marks=pytest.mark.slow)], ids=["half a line", "no line"]
)
def test_a_torn_metrics_line_is_dropped(
    tail: bytes, config: TrainConfig, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        during_step(patch, STEPS + 2, die)
        with pytest.raises(Killed):
            train(config, "cut", tmp_path)
    run = Run(tmp_path / "cut")
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    train(config, resume=run)
    assert_same(run.path, reference.path)


def foreign(lines: list[bytes]) -> list[bytes]:
    return [lines[0], b'{"epoch": "two"}\n', b"\xff\n", lines[1][:40]]


LOST = {
    "half of the last": (lambda lines: [lines[0], lines[1][:40]], "epoch 2;", 1),
    "a whole one": (lambda lines: lines[1:], "epoch 1;", 0),
    "foreign ones": (foreign, "epoch 2;", 3),
    "all": (lambda lines: [], "epochs 1, 2;", 0),
}


@pytest.mark.parametrize("lost", LOST)
def test_lost_metrics_cost_no_run(
    lost: str, config: TrainConfig, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """All is trained, its last evaluation was interrupted: the run can be finished and says what it lacks."""
    shutil.copytree(reference.path, tmp_path / "cut")
    run = Run(tmp_path / "cut")
    (run.path / "summary.json").unlink()
    lose, named, torn = LOST[lost]
    whole = (run.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_bytes(b"".join(lose(whole)))
    train(config, resume=run)
    assert scores(run.path) == scores(reference.path)
    said = capsys.readouterr().err
    assert f"metrics.jsonl has no line of {named}" in said
    assert ("no epoch's: dropped" in said) is bool(torn) and (not torn or f"Note: {torn} line" in said)
    kept = [line for line in lose(whole) if line in whole]
    assert (run.path / "metrics.jsonl").read_bytes() == b"".join(kept)


def test_seconds_of_an_interrupted_epoch_are_counted(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise images_per_second of the summary would count pictures whose time is lost."""
    with monkeypatch.context() as patch:
        during_step(patch, 4, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(config, "cut", tmp_path)
    progress = torch.load(tmp_path / "cut" / checkpoint.FILE, weights_only=True)["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 4)
    assert progress["seconds"] > 0


@pytest.mark.slow
def test_layers_that_draw_resume_their_draws(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mobilenet has dropout: the random state is part of the checkpoint."""
    mixed = TrainConfig(
        **{**vars(config), "arch": "resnet8,mobilenet_v3_small", "epochs": 2, "method": "independent"}
    )
    whole = train(mixed, "whole", tmp_path)
    with monkeypatch.context() as patch:
        during_step(patch, 3, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(mixed, "cut", tmp_path)
    torch.manual_seed(12345)
    assert_same(train(mixed, resume=Run(tmp_path / "cut")).path, whole.path)


def test_one_step_an_epoch_is_enough(config: TrainConfig, tmp_path: Path) -> None:
    run = train(TrainConfig(**{**vars(config), "batch_size": 60, "epochs": 2}), "short", tmp_path)
    assert [row["epoch"] for row in metrics(run.path)] == [1, 2]


def test_what_was_trained_differs_from_what_was_not(
    config: TrainConfig, reference: Run, tmp_path: Path
) -> None:
    """The comparison itself can fail: another seed gives other weights."""
    other = train(TrainConfig(**{**vars(config), "seed": 1}), "other", tmp_path)
    with pytest.raises(AssertionError):
        assert_same(other.path, reference.path)


def test_an_interrupted_epoch_keeps_its_rate(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted at its last step, nothing of it is left to do, but all of it was done."""
    with monkeypatch.context() as patch:
        during_step(patch, STEPS, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(config, "cut", tmp_path)
    before = torch.load(tmp_path / "cut" / checkpoint.FILE, weights_only=True)["progress"]["seconds"]
    train(config, resume=Run(tmp_path / "cut"))
    assert "Resuming at the end of epoch 1: its evaluation comes next." in capsys.readouterr().err
    row = json.loads((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()[0])
    assert row["seconds"] > before > 0
    assert row["images_per_second"] == pytest.approx(STEPS * 16 / row["seconds"])


def test_a_run_in_training_is_not_resumed_twice(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From within a step of it, when it is new and when it is resumed itself."""
    refusals = []

    def again() -> None:
        with pytest.raises(LfdeployError) as caught:
            train(config, resume=Run(tmp_path / "cut"))
        refusals.append(str(caught.value))
        die()

    for resume in (None, Run(tmp_path / "cut")):
        with monkeypatch.context() as patch:
            during_step(patch, 2, again)
            with pytest.raises(Killed):
                train(config, None if resume else "cut", tmp_path, resume)
    assert len(refusals) == 2
    for refusal in refusals:
        assert refusal.startswith(f"Run cut is in training already, by process {os.getpid()} on ")
    assert not (tmp_path / "cut" / ".lock").exists()


def test_an_interrupt_in_the_last_evaluation(
    config: TrainConfig, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real = finish.evaluate_cohort

    def evaluate(*args: Any, **how: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return real(*args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(finish, "evaluate_cohort", evaluate)
        with pytest.raises(Interrupted, match="lfdeploy train --resume"):
            train(config, "cut", tmp_path)
    run = Run(tmp_path / "cut")
    assert not (run.path / "summary.json").exists()
    capsys.readouterr()
    train(config, resume=run)
    said = capsys.readouterr().err
    assert f"Resuming after the last epoch, {EPOCHS}: its evaluation on the test pictures" in said
    assert f"3 classes, 81 training pictures, 9 validation, 30 test; 2 epochs of {STEPS} steps of 16" in said
    assert_same(run.path, reference.path)


def test_a_full_disk_says_what_is_kept(
    config: TrainConfig, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk; from the second epoch on no checkpoint fits."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        during_step(patch, STEPS + 1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1])))
        try:
            with pytest.raises(LfdeployError) as caught:
                train(config, "cut", tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = str(caught.value)
    assert "cut/model.safetensors could not be written" in said
    assert "Run cut keeps its state of epoch 2, step 1; then go on with: lfdeploy train --resume" in said
    run = Run(tmp_path / "cut")
    assert not list(run.path.rglob("*.partial*"))
    train(config, resume=run)
    assert_same(run.path, reference.path)


def test_the_summary_comes_before_the_plots(
    config: TrainConfig, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of the process while they are drawn."""
    monkeypatch.setattr(finish.plots, "draw", lambda *args: die())
    with pytest.raises(Killed):
        train(config, "cut", tmp_path)
    assert_same(tmp_path / "cut", reference.path)


@pytest.mark.plots
def test_a_plot_that_fails_costs_nothing(
    config: TrainConfig,
    reference: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A directory has the name that a picture is to have."""
    during_step(monkeypatch, 1, (tmp_path / "cut" / "curves.png").mkdir)
    run = train(config, "cut", tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "curves.png" in line]
    assert len(said) == 1
    assert said[0].startswith("Note: curves.png could not be drawn (")
    assert (run.path / "confusion.png").exists()
    assert_same(run.path, reference.path)


def test_without_standard_error(
    config: TrainConfig, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert_same(train(config, "mute", tmp_path).path, reference.path)


def one_line(result: Result) -> str:
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    return lines[0]


def test_a_finished_run_refuses_to_resume(reference: Run, lf: Callable[..., Result]) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in reference.path.iterdir()}
    result = lf("train", "--resume", reference.name, "--runs", reference.path.parent)
    assert result.exit_code == 1
    assert (
        one_line(result) == f"Error: Run {reference.name} has finished already; there is nothing to resume."
    )
    assert result.stdout == ""
    assert {p.name: p.stat().st_mtime_ns for p in reference.path.iterdir()} == before


def test_resume_takes_no_other_settings(reference: Run, lf: Callable[..., Result]) -> None:
    result = lf("train", "--resume", reference.name, "--runs", reference.path.parent, "--epochs", 9)
    assert result.exit_code == 2
    assert "drop --epochs" in one_line(result)


def test_resume_of_no_run_names_those_there_are(reference: Run, lf: Callable[..., Result]) -> None:
    result = lf("train", "--resume", "nothing", "--runs", reference.path.parent)
    assert result.exit_code == 1
    assert "whole" in one_line(result)


def test_a_damaged_checkpoint_is_said_in_one_line(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        during_step(patch, STEPS + 1, die)
        with pytest.raises(Killed):
            train(config, "cut", tmp_path)
    file = tmp_path / "cut" / checkpoint.FILE
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(LfdeployError, match="damaged") as caught:
        train(config, resume=Run(tmp_path / "cut"))
    assert "\n" not in str(caught.value)


def test_other_pictures_refuse_to_resume(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_coloured(tmp_path / "mine.npz")
    mine = TrainConfig(**{**vars(config), "data": str(path)})
    with monkeypatch.context() as patch:
        during_step(patch, 1, die)
        with pytest.raises(Killed):
            train(mine, "cut", tmp_path)
    write_coloured(path, seed=1)
    with pytest.raises(LfdeployError, match="have changed"):
        train(mine, resume=Run(tmp_path / "cut"))


def test_a_loss_that_is_no_number_names_the_rate(
    config: TrainConfig, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    words = (
        "--data",
        config.data,
        "--image-size",
        16,
        "--arch",
        "resnet8",
        "--batch-size",
        16,
        "--precision",
        "fp32",
        "--device",
        "cpu",
    )
    result = lf("train", *words, "--epochs", 2, "--lr", "1e30", "--runs", tmp_path)
    assert result.exit_code == 1
    said = one_line(result)
    assert "--lr 0.1" in said
    assert "The loss is " in said
    run = next(path for path in tmp_path.iterdir() if not path.is_symlink() and path.is_dir())
    for words in (("train", "--resume", run.name), ("export", run.name, "--peer", 0), ("evaluate",)):
        again = lf(*words, "--runs", tmp_path)
        assert (again.exit_code, one_line(again)) == (1, said)
    assert [row["state"] for row in json.loads(lf("list", "runs", "--runs", tmp_path, "--json").stdout)] == [
        "diverged"
    ]


# ---------------------------------------------------------------- real processes

LFDEPLOY = Path(sys.executable).with_name("lfdeploy")
WORDS = ("--arch", "resnet8", "--epochs", "5", "--batch-size", "32", "--precision", "fp32", "--device", "cpu")


def start(runs: Path, *words: str) -> subprocess.Popen[str]:
    """`lfdeploy train` in a process of its own; a new run by the words common to all here."""
    if "--resume" not in words:
        data = (
            () if "--data" in words else ("--data", str(write_coloured(runs.with_suffix(".npz"), train=400)))
        )
        words = (*data, *WORDS, "--name", "mine", *words)
    command = [str(LFDEPLOY), "train", "--runs", str(runs), *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=runs.parent,
        env=dict(os.environ),
    )


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for success; what it said."""
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    return said


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Until the condition holds or the process has ended."""
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        return


def uninterrupted(runs: Path, *words: str) -> tuple[Path, float]:
    """A whole run, and how many seconds it took from its directory's first moment to its end."""
    process = start(runs, *words)
    wait_until(process, (runs / "mine" / "config.json").exists)
    began = time.monotonic()
    ended(process)
    return runs / "mine", time.monotonic() - began


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run on arrays."""
    return uninterrupted(tmp_path_factory.mktemp("whole") / "runs")


def write_photos(place: Path) -> tuple[str, ...]:
    """A folder of 400 pictures of 120 x 90 px in two classes, and the words to train on it as on photos:
    files are decoded by threads, areas and colours drawn anew for each.
    """
    draw = np.random.default_rng(0)
    for number in range(400):
        file = place / ("dark" if number % 2 else "light") / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 90, (90, 120, 3), np.uint8) + np.uint8(0 if number % 2 else 160)
        Image.fromarray(pixels).save(file)
    return "--data", str(place), "--image-size", "48", "--recipe", "imagenet"


def until_it_trains(process: subprocess.Popen[str]) -> None:
    """Until it has said how many steps there are, which is the last line before the first of them."""
    assert process.stdout is not None
    for line in process.stdout:
        if " steps of " in line:
            return


@pytest.mark.wide
@pytest.mark.parametrize("photos", [False, True])
def test_kill_9_at_ten_random_moments(photos: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """One run, killed in the first and in the second half of each of its five
    epochs, and each time resumed.
    """
    words = write_photos(tmp_path / "photos") if photos else ()
    reference, seconds = (
        uninterrupted(tmp_path / "whole", *words) if photos else request.getfixturevalue("whole")
    )
    # every time at other moments; what is printed shows which
    runs, draw = (tmp_path / "runs", random.Random())
    lines = runs / "mine" / "metrics.jsonl"
    for half in range(10):
        process = start(runs, *words)
        until_it_trains(process)
        wait_until(
            process,
            lambda done=half // 2: (
                not done or (lines.exists() and len(lines.read_bytes().splitlines()) >= done)
            ),
        )  # type: ignore[misc]
        delay = (half % 2 + draw.random()) / 2 * seconds / 6
        print(f"killed {delay:.2f} s after epoch {half // 2}")
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=DEADLINE)
        assert process.returncode in ((0, -signal.SIGKILL) if half == 9 else (-signal.SIGKILL,))
        words = ("--resume", "mine")
    if process.returncode:
        ended(start(runs, *words))
    assert_same(runs / "mine", reference)
    assert not list((runs / "mine").glob("*.partial"))


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize("lines", [0, 2])
def test_sigterm_says_how_to_resume(lines: int, whole: tuple[Path, float], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = start(runs)
    file = runs / "mine" / "metrics.jsonl"
    if lines:
        wait_until(process, lambda: file.exists() and len(file.read_bytes().splitlines()) >= lines)
    else:  # the run has its name, and may not have begun its first step: then there is no state to speak of
        wait_until(process, (runs / "mine" / "config.json").exists)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=DEADLINE)
    assert "Traceback" not in said
    words = ["--resume", "runs/mine"]
    if lines or process.returncode != 143:
        assert process.returncode == 130, said
        (told,) = [line for line in said.splitlines() if "--resume" in line]
        assert told.split("lfdeploy train ")[1].rstrip(".").split() == words
    ended(start(runs, *words))
    assert_same(runs / "mine", whole[0])


def test_a_checkpoint_of_other_contents_is_one_line(
    config: TrainConfig, reference: Run, tmp_path: Path
) -> None:
    """Whether bytes of it are damaged or another version wrote it cannot be told: both are said."""
    whole = torch.load(reference.path / checkpoint.FILE, weights_only=True)
    name = next(iter(whole["model"]))
    other = {
        "a name": whole | {"model": {"x" + n if n == name else n: t for n, t in whole["model"].items()}},
        "a shape": whole | {"model": whole["model"] | {name: torch.zeros(1)}},
        "groups": whole | {"optimizer": {"state": {}, "param_groups": []}},
        "a part": {key: value for key, value in whole.items() if key != "optimizer"},
    }
    for kind, state in other.items():
        run = Run(Path(shutil.copytree(reference.path, tmp_path / kind.replace(" ", "-"))))
        (run.path / "summary.json").unlink()
        torch.save(state, run.path / checkpoint.FILE)
        with pytest.raises(
            LfdeployError, match=r"damaged, or another version of.*lfdeploy made.*Train again"
        ):
            train(config, resume=run)
