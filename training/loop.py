"""The training loop. It learns no method's name: a cohort, a loss as data, and the steps of an engine."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfdeploy import record
from lfdeploy.chance import against_chance
from lfdeploy.config import TrainConfig, parse_options
from lfdeploy.console import Meter, decoding, duration, say
from lfdeploy.data import Data, load
from lfdeploy.devices import pick
from lfdeploy.errors import Interrupted, LfdeployError, choose
from lfdeploy.images import RESIZE
from lfdeploy.locks import Lock
from lfdeploy.models import ARCHITECTURES, create
from lfdeploy.names import check_classes, stem_of
from lfdeploy.pictures import resumed
from lfdeploy.run import DIVERGED, SCHEMA, Run, config_json, shown, versions, write_bytes, write_json
from lfdeploy.runs import may_begin, new_run, point_latest
from training import checkpoint, plots
from training.augment import normalise
from training.batches import Augment, Batches, pixel_statistics
from training.engine import Engine, exact_fp32, pick_precision, settle, threads_for
from training.evaluate import evaluate_cohort
from training.guards import check_batch_of_one, interruptible, lock_to_resume, what_is_kept
from training.methods import METHODS
from training.schedule import learning_rate, ramp_up
from training.testimony import testified


@dataclass(frozen=True)
class Setup:
    """Everything a training needs that does not change while it runs."""

    run: Run
    data: Data
    engine: Engine
    optimizer: torch.optim.Optimizer
    batches: Batches
    mean: Tensor
    std: Tensor
    epochs: int
    lr: float
    schedule: str
    warmup: float
    precision: str


def train(config: TrainConfig, name: str | None = None, runs: str | Path = "runs", resume: Run | None = None) -> Run:
    """Train peers together and return the finished run.

    ``resume`` continues that run under its own settings (``config`` is then ignored). Raises `Interrupted` after
    Ctrl-C or SIGTERM, with the state saved, and `LfdeployError` for what the user can mend.
    """
    held = [lock_to_resume(resume)] if resume is not None else []
    try:
        if resume is not None:
            config = _config_of(resume)
        setup = _prepare(config, name, Path(runs), resume, held)
        try:
            with interruptible() as interrupted:
                _train(setup, config, interrupted)
        finally:
            setup.engine.close()
    finally:
        for lock in held:
            lock.release()
    return setup.run


def _train(setup: Setup, config: TrainConfig, interrupted: list[int]) -> None:
    try:
        _epochs(setup, interrupted)
        _finish(setup, config, interrupted)
    except OSError as error:
        if not error.strerror:
            raise
        raise LfdeployError(what_is_kept(setup.run, error)) from None
    if interrupted:
        raise Interrupted(f"Interrupted, but run {setup.run.name} had just finished; nothing is lost.")


def _config_of(run: Run) -> TrainConfig:
    values = run.read("config.json")
    values["option"] = tuple((k, v) for k, v in values["option"])
    try:
        return TrainConfig(**values)
    except TypeError as error:
        raise LfdeployError(f"{run.path}/config.json is not of this version: {error}.") from None


def _prepare(config: TrainConfig, name: str | None, runs: Path, resume: Run | None, held: list[Lock]) -> Setup:
    """Everything until the first step; the lock of a run that begins here is added to ``held``."""
    if resume is None:
        may_begin(runs, name)
    choose("method", config.method, list(METHODS))
    method = METHODS[config.method]
    options = parse_options(method.options, config.option, config.method)
    device = pick(config.device)
    exact_fp32(device)
    names = [choose("architecture", a, list(ARCHITECTURES)) for a in (config.arch or "").split(",") if a]
    with decoding() as report:
        largest = min([ARCHITECTURES[a].largest for a in names], default=64)
        data = load(config, report, largest, say) if resume is None else resumed(resume, report)
    check_classes(data.classes, config.data)
    archs = config.archs(data.arch)
    torch.manual_seed(config.seed)
    peers = [create(arch, len(data.classes)) for arch in archs]
    cohort = method.build(peers, len(data.classes), data.image_size, options).to(device)
    cohort = cohort.to(memory_format=torch.channels_last)
    batch = config.batch_size or max(8, min(128, 2 ** int(math.log2(max(1, len(data.train) / 16)))))
    batch = min(batch, len(data.train))
    augment = config.augment if config.augment != "auto" else "crop-flip" if data.flip else "crop"
    pad = 0 if augment == "none" else max(1, data.image_size // 8)
    batches = Batches(data.train, batch, Augment(pad, augment == "crop-flip"), config.seed, device)
    mean, std = pixel_statistics(data.train)
    mean_t, std_t = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    first = torch.from_numpy(data.train.images[:64].copy()).to(device)
    dtype, precision = pick_precision(config.precision, cohort, device, normalise(first, mean_t, std_t))
    if batch == 1:
        check_batch_of_one(cohort, normalise(first[:1], mean_t, std_t))
    threads = threads_for(config.threads, cohort, device)
    engine = Engine(cohort, method.graph(cohort, options), device, dtype, threads)
    optimizer = torch.optim.SGD(cohort.parameter_groups(config.weight_decay), lr=config.lr, momentum=0.9, nesterov=True, foreach=True)
    epochs = config.epochs or data.epochs
    spec = {
        "schema": SCHEMA, "method": config.method, "archs": list(archs), "classes": list(data.classes),
        "image_size": data.image_size, "resize": RESIZE, "mean": mean, "std": std,
        "fused": {"channels": [p.shapes(data.image_size)[-1][0] for p in _on_cpu(archs, data)], "operator": cohort.fused.fusion.operator}
        if cohort.fused is not None else None,
        "data_fingerprint": data.fingerprint,
    }  # fmt: skip
    if resume is None:
        stem = stem_of("-".join((data.name, config.method, *dict.fromkeys(archs))))
        documents = {"config.json": config_json(config), "spec.json": spec, record.FILE: record.to_bytes(data)}
        run, lock = new_run(runs, name, stem, documents)
        held.append(lock)
    else:
        run = resume
    point_latest(run)
    say(f"Run {run.name}: {' + '.join(archs)} by {config.method} on {data.name}, {data.image_size}x{data.image_size} px")
    for remark in data.remarks:
        say(f"Note: {remark}.")
    for fault in data.bad[:5]:
        say(f"Left out: {fault}")
    if data.bad:
        say(f"Left out {len(data.bad)} corrupt picture{'s' if len(data.bad) > 1 else ''} in all.")
    say(
        f"{len(data.classes)} classes, {len(data.train)} training pictures, {len(data.val)} validation, {len(data.test)} test; "
        f"{epochs} epochs of {batches.steps} steps of {batch}; {device}, {precision}" + (f", {threads} threads" if threads else "")
    )
    return Setup(run, data, engine, optimizer, batches, mean_t, std_t, epochs, config.lr, config.schedule, config.warmup, precision)


def _on_cpu(archs: tuple[str, ...], data: Data) -> list[Any]:
    with torch.random.fork_rng(devices=[]):
        return [create(arch, len(data.classes)) for arch in archs]


def _epochs(s: Setup, interrupted: list[int]) -> None:
    cohort, engine, run = s.engine.cohort, s.engine, s.run
    progress = checkpoint.load(run, cohort, s.optimizer) or {"epoch": 0, "step": 0, "sums": {}, "best": -1.0, "seconds": 0.0}
    _trim_metrics(run, progress["epoch"])
    if progress["epoch"] or progress["step"]:
        say(f"Resuming at epoch {progress['epoch'] + 1}, step {progress['step'] + 1}.")
    total = s.epochs * s.batches.steps
    size, ramp_length = s.batches.batch_size, engine.graph.ramp * s.epochs
    with Meter("epoch", total * size, "img") as meter:
        cohort.train()
        for epoch in range(progress["epoch"], s.epochs):
            began, start = time.perf_counter(), progress["step"]
            sums = {name: torch.tensor(v, dtype=torch.float64) for name, v in progress["sums"].items()}
            for step, (images, labels) in enumerate(s.batches.epoch(epoch, start), start):
                done = epoch * s.batches.steps + step
                for group in s.optimizer.param_groups:
                    group["lr"] = learning_rate(s.schedule, s.lr, s.warmup, done / total)
                s.optimizer.zero_grad(set_to_none=True)
                parts = engine.step(normalise(images, s.mean, s.std), labels, ramp_up(epoch, ramp_length))
                s.optimizer.step()
                for name, part in parts.items():
                    sums[name] = sums[name] + part.double() if name in sums else part.double()
                meter.at((done + 1) * size, f"epoch {epoch + 1}/{s.epochs}")
                if interrupted:
                    settle(engine.device)
                    spent = time.perf_counter() - began
                    progress.update(epoch=epoch, step=step + 1, sums={n: float(v) for n, v in sums.items()})
                    progress.update(seconds=progress["seconds"] + spent)
                    progress.update(part=progress.get("part", 0.0) + spent)
                    checkpoint.save(run, cohort, s.optimizer, progress)
                    raise Interrupted(f"Interrupted; the state is saved. Go on with: lfdeploy train --resume {shown(run.path)}")
            settle(engine.device)
            row = _close_epoch(s, epoch, sums, progress, time.perf_counter() - began)
            checkpoint.save(run, cohort, s.optimizer, progress)
            say(_line(row, s.epochs, meter.left()))


def _close_epoch(s: Setup, epoch: int, sums: dict[str, Tensor], progress: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Evaluate on val, keep the weights if they are the best, write the metrics line, move on.

    ``seconds`` of this sitting; those of an interrupted epoch's earlier ones are in ``progress``.
    """
    parts = {name: float(value) / s.batches.steps for name, value in sums.items()}
    loss = sum(parts.values())
    if not math.isfinite(loss):
        write_json(s.run.path / DIVERGED, {"epoch": epoch + 1, "loss": str(loss), "lr": s.lr})
        raise LfdeployError(s.run.diverged())
    val = evaluate_cohort(s.engine, s.data.val, s.mean, s.std).top1 if len(s.data.val) else {}
    shipped = [value for name, value in val.items() if name.startswith("peer") or name == "fused"]
    score = sum(shipped) / len(shipped) if shipped else float(epoch)
    if score >= progress["best"]:
        progress.update(best=score, kept_epoch=epoch + 1)
        _keep(s)
    whole = progress.get("part", 0.0) + seconds
    row = {
        "epoch": epoch + 1, "loss": loss, "parts": parts, "lr": s.optimizer.param_groups[0]["lr"], "val": val,
        "images_per_second": s.batches.steps * s.batches.batch_size / whole, "seconds": whole,
    }  # fmt: skip
    with (s.run.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    progress.update(epoch=epoch + 1, step=0, sums={}, seconds=progress["seconds"] + seconds, part=0.0)
    return row


def _keep(s: Setup) -> None:
    from safetensors.torch import save

    tensors = checkpoint.on_cpu(s.engine.cohort.state_dict())
    write_bytes(s.run.weights, save({name: value.contiguous().clone() for name, value in tensors.items()}))


def _trim_metrics(run: Run, epochs: int) -> None:
    """Drop lines of epochs that will be run again."""
    path = run.path / "metrics.jsonl"
    if path.exists():
        write_bytes(path, b"".join(path.read_bytes().splitlines(keepends=True)[:epochs]))


def _line(row: dict[str, Any], epochs: int, left: float) -> str:
    val = "  ".join(f"{name} {value:.1f}" for name, value in row["val"].items() if name != "ensemble_probs")
    rest = f"{row['images_per_second']:,.0f} img/s" + (f", {duration(left)} left" if row["epoch"] < epochs else "")
    return f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['loss']:.3f}  {'val ' + val if val else ''}  {rest}"


def _chances(top1: dict[str, float], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Of every node that can be shipped: is it better than the most frequent class?"""
    count = len(labels)
    shipped = {name: value for name, value in top1.items() if not name.startswith("aux") and name != "ensemble_probs"}
    return {name: against_chance(round(value * count / 100), labels) for name, value in shipped.items()}


def _finish(s: Setup, config: TrainConfig, interrupted: list[int]) -> None:
    """Touch the test split once for the last epoch and once for the kept one; write the summary, then plots."""
    run, cohort = s.run, s.engine.cohort
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    progress = checkpoint.load(run, cohort, s.optimizer)
    assert progress is not None
    with Meter("Evaluating", 2 * len(s.data.test) + len(s.data.val), "pictures") as meter:

        def tick(count: int) -> None:
            meter.at(meter.done + count)
            if interrupted:
                how = f"lfdeploy train --resume {shown(run.path)}"
                raise Interrupted(f"Interrupted; training is done, its evaluation is not. Go on with: {how}")

        last = evaluate_cohort(s.engine, s.data.test, s.mean, s.std, tick)
        cohort.load_state_dict(run.tensors())
        kept = evaluate_cohort(s.engine, s.data.test, s.mean, s.std, tick)
        val = None
        if len(s.data.val):
            val = evaluate_cohort(s.engine, s.data.val, s.mean, s.std, tick).document()
    images = s.batches.steps * s.batches.batch_size * len(rows)
    summary = {
        "method": config.method, "archs": run.spec["archs"], "epochs": s.epochs, "kept_epoch": progress["kept_epoch"],
        "data": {
            "name": s.data.name, "classes": len(s.data.classes), "image_size": s.data.image_size, "train": len(s.data.train),
            "val": len(s.data.val), "test": len(s.data.test), "bad": len(s.data.bad), "fingerprint": s.data.fingerprint,
        },
        "val": val, "test": kept.document(), "test_last": last.document(), "chance": _chances(kept.top1, s.data.test.labels),
        "images_per_second": images / progress["seconds"], "seconds": progress["seconds"],
        "device": s.engine.device, "precision": s.precision.split()[0], "seed": config.seed, "versions": versions(),
        "reference": testified(run, s.engine, s.data, s.mean, s.std),
    }  # fmt: skip
    write_json(run.path / "summary.json", summary)
    plots.draw(run, rows, s.data, kept.predicted, "fused" if "fused" in kept.top1 else "peer0")
