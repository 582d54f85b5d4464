"""The training loop. It learns no method's name: a cohort, a loss as data, and the steps of an engine."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from lfdeploy.config import TrainConfig
from lfdeploy.console import Meter, say
from lfdeploy.errors import Interrupted, LfdeployError
from lfdeploy.labels import counted
from lfdeploy.locks import Lock
from lfdeploy.run import DIVERGED, Run, typed, write_bytes, write_json
from lfdeploy.runs import point_latest
from lfdeploy.stored_config import stored
from training import checkpoint, metrics
from training.average import applied
from training.evaluate import Scores, evaluate_cohort
from training.finish import finish
from training.guards import interruptible, lock_to_resume, what_is_kept
from training.precision import reproducible, settle
from training.remarks import changed_since
from training.schedule import learning_rate
from training.setup import Setup, prepare
from training.update import stepper
from training.world import lost, started_first

ALONE = threading.RLock()
os.register_at_fork(
    after_in_child=lambda: globals().update(ALONE=threading.RLock())
)  # its owner is not there
START = {"epoch": 0, "step": 0, "sums": {}, "best": -1.0, "seconds": 0.0}


def train(
    config: TrainConfig,
    name: str | None = None,
    runs: str | Path = "runs",
    resume: Run | None = None,
    began: float | None = None,
    repeats: Run | None = None,
) -> Run:
    """Train peers together and return the finished run.

    ``resume`` continues that run under its own settings (``config`` is then ignored). ``began``: the moment
    of `time.perf_counter` from which the config's ``time`` counts; None is now. ``repeats``: the run whose
    config this is; where the pictures are others now, that is said. Raises `Interrupted` after
    Ctrl-C or SIGTERM, with the state saved, and `LfdeployError` for what the user can mend. Of several in
    threads of one process one trains at a time: they share what draws random numbers.
    """
    if not ALONE.acquire(blocking=False):
        say("Another training runs in this process; this one waits for it.")
        ALONE.acquire()
    try:
        return _alone(config, name, runs, resume, began, repeats)
    finally:
        ALONE.release()


def _alone(
    config: TrainConfig, name: str | None, runs: str | Path, resume: Run | None, began: float | None,
    repeats: Run | None,
) -> Run:  # fmt: skip
    held = [lock_to_resume(resume)] if resume is not None and started_first() else []
    try:
        if resume is not None:
            config = _config_of(resume)
        if config.tensorboard:
            metrics.check_tensorboard()
        start = time.perf_counter() if began is None else began
        with reproducible(config.deterministic):
            return _sitting(config, name, Path(runs), resume, start, repeats, held)
    finally:
        for lock in held:
            lock.release()


def _sitting(
    config: TrainConfig, name: str | None, runs: Path, resume: Run | None, began: float,
    repeats: Run | None, held: list[Lock],
) -> Run:  # fmt: skip
    try:
        setup = prepare(config, name, runs, resume, held, began)
    except RuntimeError as error:
        raise lost(resume, error) or error from None
    for remark in changed_since(repeats, setup.data) if repeats else ():
        say(f"Note: {remark}.")
    if setup.world.first:
        point_latest(setup.run)
    try:
        with interruptible() as interrupted:
            _train(setup, setup.config, interrupted)
    except RuntimeError as error:
        raise lost(setup.run, error) or error from None
    finally:
        setup.engine.close()
        setup.world.leave()
        metrics.close()
    return setup.run


def _train(setup: Setup, config: TrainConfig, interrupted: list[int]) -> None:
    try:
        _epochs(setup, interrupted)
        if setup.world.first:
            finish(setup, config, interrupted)
        setup.world.wait()
    except OSError as error:
        if not error.strerror:
            raise
        raise LfdeployError(what_is_kept(setup.run, error)) from None
    if interrupted:
        raise Interrupted(f"Interrupted, but run {setup.run.name} had just finished; nothing is lost.")


def _config_of(run: Run) -> TrainConfig:
    values = run.read("config.json")
    try:
        return stored(values)
    except (KeyError, TypeError, ValueError) as error:
        raise LfdeployError(f"{run.path}/config.json is not of this version: {error}.") from None


def _epochs(s: Setup, interrupted: list[int]) -> None:
    cohort, engine, run = s.engine.cohort, s.engine, s.run
    progress = checkpoint.load(run, cohort, s.optimizer, s.average, s.scaler) or dict(START)
    if s.world.first:
        metrics.trim(run, progress["epoch"])
    if progress["epoch"] or progress["step"]:
        say(f"Resuming {_where(progress['epoch'], progress['step'], s)}.")
    total = s.epochs * s.batches.steps
    size, take_step = s.batches.batch_size, stepper(s)
    with Meter("epoch", total * size, "img") as meter:
        cohort.train()
        for epoch in range(progress["epoch"], s.epochs):
            if s.config.patience and epoch - progress.get("better", epoch) >= s.config.patience:
                say(f"Stopped early: {counted(s.config.patience, 'epoch')} without a better validation.")
                break
            began, start = time.perf_counter(), progress["step"]
            sums = {
                name: torch.tensor(value, dtype=torch.float64, device=engine.device)
                for name, value in progress["sums"].items()
            }
            ramps = engine.graph.ramps(epoch, s.epochs, engine.device)
            cohort.hold(epoch < s.held)
            for step, batch in enumerate(s.batches.epoch(epoch, start), start):
                done = epoch * s.batches.steps + step
                rate = learning_rate(s.schedule, s.lr, s.warmup, done / total)
                for group in s.optimizer.param_groups:
                    group["lr"] = rate * group.get("pace", 1)
                place = done * s.world.size + s.world.rank
                parts, stopped = take_step(batch.given(s.mean, s.std), ramps, place, interrupted)
                cohort.after_step(done)
                if s.average is not None:
                    s.average.update(cohort, done)
                metrics.add(sums, parts, engine.seen)
                meter.at((done + 1) * size, f"epoch {epoch + 1}/{s.epochs}")
                if stopped:
                    settle(engine.device)
                    _stop(s, epoch, step + 1, s.world.mean(sums), progress, time.perf_counter() - began)
            settle(engine.device)
            row = _close_epoch(s, epoch, s.world.mean(sums), progress, time.perf_counter() - began)
            if s.world.first:
                checkpoint.save(run, cohort, s.optimizer, progress, s.average, s.scaler)
            say(metrics.told(row, s.epochs, meter.left()))


def _where(epoch: int, step: int, s: Setup) -> str:
    """What comes next after so many whole epochs and steps of the next, as a person says it."""
    if epoch >= s.epochs:
        return f"after the last epoch, {epoch}: its evaluation on the test pictures comes next"
    if step >= s.batches.steps:
        return f"at the end of epoch {epoch + 1}: its evaluation comes next"
    return f"at epoch {epoch + 1}, step {step + 1}"


def _stop(
    s: Setup, epoch: int, step: int, sums: dict[str, Tensor], progress: dict[str, Any], seconds: float
) -> NoReturn:
    """Save the state within an epoch and end."""
    progress.update(epoch=epoch, step=step, sums={name: float(value) for name, value in sums.items()})
    progress.update(seconds=progress["seconds"] + seconds, part=progress.get("part", 0.0) + seconds)
    s.world.share(s.engine.cohort.buffers())
    if s.world.first:
        checkpoint.save(s.run, s.engine.cohort, s.optimizer, progress, s.average, s.scaler)
    s.world.wait()
    how = f"lfdeploy train --resume {typed(s.run.path)}"
    raise Interrupted(f"Interrupted; the state is saved. Go on with: {how}")


def _close_epoch(
    s: Setup, epoch: int, sums: dict[str, Tensor], progress: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Evaluate on val, keep the weights if they are the best, write the metrics line, move on.

    ``seconds`` of this sitting; those of an interrupted epoch's earlier ones are in ``progress``.
    """
    parts, train = metrics.means(sums, s.batches.steps)
    loss = sum(parts.values())
    if not math.isfinite(loss):
        if s.world.first:
            write_json(s.run.path / DIVERGED, {"epoch": epoch + 1, "loss": str(loss), "lr": s.lr})
        raise LfdeployError(s.run.diverged())
    s.world.share(s.engine.cohort.buffers())
    s.world.share(s.average.values if s.average else ())
    scores = _judge(s, epoch, progress)
    s.world.share(s.engine.cohort.buffers())  # what parts learnt from validation
    progress.update(s.world.agree({key: progress[key] for key in ("best", "kept_epoch", "better")}))
    whole = progress.get("part", 0.0) + seconds
    group = s.optimizer.param_groups[0]
    row = {
        "epoch": epoch + 1,
        "loss": loss,
        "parts": parts,
        "lr": group["lr"] / group.get("pace", 1),
        "train": train,
        "val": scores.top1 if scores else {},
        "val_cross_entropy": scores.cross_entropy if scores else {},
        "images_per_second": s.batches.steps * s.batches.batch_size / whole,
        "seconds": whole,
    }
    if s.world.first:
        metrics.append(s.run, row, s.config)
    progress.update(epoch=epoch + 1, step=0, sums={}, seconds=progress["seconds"] + seconds, part=0.0)
    return row


def _judge(s: Setup, epoch: int, progress: dict[str, Any]) -> Scores | None:
    """Evaluate on val, if there is one, and keep the weights where they are the best so far."""
    with applied(s.average, s.engine.cohort):
        scores = None
        if len(s.data.val):
            scores = evaluate_cohort(s.engine, s.data.val, s.mean, s.std, learn=True)
        shipped = list(scores.shipped().values()) if scores else []
        score = sum(shipped) / len(shipped) if shipped else float(epoch)
        if score > progress["best"]:
            progress.update(better=epoch + 1)
        if score >= progress["best"]:
            progress.update(best=score, kept_epoch=epoch + 1)
            if s.world.first:
                _keep(s)
    return scores


def _keep(s: Setup) -> None:
    from safetensors.torch import save

    tensors = checkpoint.on_cpu(s.engine.cohort.kept())
    write_bytes(s.run.weights, save({name: value.contiguous().clone() for name, value in tensors.items()}))
