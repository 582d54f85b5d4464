"""Everything that a training needs before its first step, from a config."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lfdeploy.config import TrainConfig, parse_options, seconds_of
from lfdeploy.console import decoding, say
from lfdeploy.data import Data, load
from lfdeploy.devices import pick
from lfdeploy.errors import UsageError, choose
from lfdeploy.locks import Lock
from lfdeploy.models import architecture, create
from lfdeploy.names import check_classes
from lfdeploy.run import Run
from lfdeploy.run_data import resumed
from lfdeploy.runs import may_begin
from lfdeploy.sources import check_meaning
from training import checkpoint
from training.augment import Augment, normalise
from training.average import Average
from training.batches import Batches, class_weights, pixel_statistics
from training.begin import begin, tell
from training.budget import fitting, measured
from training.cohort import Cohort
from training.dropout import with_own_random
from training.engine import Engine, cores, threads_for
from training.guards import check_batch_of_one
from training.heads import calibrated, fit_heads, fitted
from training.losses import LossGraph
from training.methods import METHODS
from training.methods.method import Given, Method
from training.parts import GivenTeacher, OpenedFile
from training.pieces import check_pieces
from training.precision import exact_fp32, pick_precision
from training.recipes import chosen, resolved
from training.recorded import check_recorded
from training.sync_norm import synchronise
from training.teachers import check_teachers, find, names_of, teachers_of
from training.weights import Start, begin_from, pixels_of, starts_of, told
from training.world import ALONE, World, check_together, join, started_first


@dataclass(frozen=True)
class Setup:
    """Everything a training needs that does not change while it runs.

    ``held``: in how many epochs at first the heads alone learn.
    """

    run: Run
    config: TrainConfig
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
    held: int
    world: World
    average: Average | None
    scaler: torch.amp.GradScaler


def prepare(
    config: TrainConfig, name: str | None, runs: Path, resume: Run | None, held: list[Lock], began: float
) -> Setup:
    """Read, build, and begin the run's directory; the lock of a run that begins here is added to ``held``."""
    if resume is None and started_first():
        may_begin(runs, name)
    method = METHODS[choose("method", config.method, list(METHODS))]
    check_teachers(config.method, method.teachers, config.teacher)
    home = runs if resume is None else resume.path.parent
    teachers = [find(teacher, home) for teacher in names_of(config.teacher)]  # before anything is decoded
    begun = resume is not None and checkpoint.saved(resume) is not None
    starts = {} if begun else starts_of(config.weights, config.arch, home)
    options = parse_options(method.options, config.option, config.method)
    chosen(config, 0)  # a recipe that is none is refused
    device = pick(config.device)
    world = join(device)
    data = pictures_of(config, runs, resume, world)
    archs = _archs(config, method, data)
    mean, std = _pixels(data, starts, resume)
    given = teachers_of(teachers, data, mean, std)
    config, cohort = _cohort(config, method, options, data, archs, given, starts)
    check_together(world, config, method)
    check_pieces(config, method, world.size)
    cohort = _placed(cohort, device, config.sync_bn and world.size > 1)
    pixels = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    batches = _batches(config, data, device, cohort.views, world)
    graph = _loss(method.graph(cohort, options), config, data, device)
    engine, precision = _engine(config, cohort, graph, data, pixels, world)
    try:
        _warm_up(config, engine, data, starts, *pixels)
        world.share([*cohort.parameters(), *cohort.buffers()])
        optimizer = _optimizer(config, cohort)
        if config.time and resume is None:
            config, batches = _within(config, engine, optimizer, batches, data, pixels, began, world)
        if resume is None and world.first:
            resume = begin(config, name, runs, data, archs, cohort, (mean, std), held)
        run: Run = world.agree(resume)
    except BaseException:
        engine.close()
        raise
    assert config.epochs and config.lr and config.schedule and config.warmup is not None
    threads = f", {engine.threads} threads" if engine.threads else ""
    tell(run, config, data, archs, batches, config.epochs, f"{device}, {precision}{threads}{world.told}")
    heads = config.epochs if config.freeze == "all" else int(config.freeze or 0)
    average = Average(cohort, config.ema) if config.ema else None
    scaler = torch.amp.GradScaler(device, enabled=engine.dtype == torch.float16)
    return Setup(
        run, config, data, engine, optimizer, batches, *pixels, config.epochs, config.lr,
        config.schedule, config.warmup, precision, heads, world, average, scaler,
    )  # fmt: skip


def _placed(cohort: Cohort, device: str, together: bool) -> Cohort:
    """The cohort where it learns; ``together``: its BatchNorms see the pictures of all processes."""
    exact_fp32(device)
    cohort = cohort.to(device).to(memory_format=torch.channels_last)
    if together:
        synchronise(cohort)
    return cohort


def _archs(config: TrainConfig, method: Method, data: Data) -> tuple[str, ...]:
    """An architecture for each network. Raises `UsageError` where the method needs more of them."""
    archs = config.archs(data.arch, method.peers)
    if len(archs) < method.least:
        raise UsageError(
            f"Method {config.method} needs at least {method.least} networks, not {len(archs)}: add "
            f"--peers {method.least}."
        )
    return archs


def _loss(graph: LossGraph, config: TrainConfig, data: Data, device: str) -> LossGraph:
    """The method's loss with what the config says of labels."""
    graph = replace(graph, smoothing=config.label_smoothing or 0.0)
    if config.balance != "weights":
        return graph
    weights = np.zeros(len(data.classes))
    found = class_weights(data.train.labels)
    weights[: len(found)] = found
    return replace(graph, class_weights=torch.from_numpy(weights).float().to(device))


def _engine(
    config: TrainConfig,
    cohort: Cohort,
    graph: LossGraph,
    data: Data,
    pixels: tuple[Tensor, Tensor],
    world: World,
) -> tuple[Engine, str]:
    """What runs the steps, and why in this precision; judged on pictures of the size that is trained on."""
    device = pixels[0].device.type
    first = normalise(torch.from_numpy(data.train.images[:64].copy()).to(device), *pixels)
    if config.augment == "photo" and config.train_size != data.image_size:
        first = interpolate(first, config.train_size)
    dtype, precision = pick_precision(config.precision, cohort, device, first)
    kept = config.sync_bn or config.keep_statistics
    if config.batch_size == world.size * config.accumulate and not kept:
        pieces = f" in {config.accumulate} pieces" if config.accumulate > 1 else ""
        check_batch_of_one(cohort, first[:1], f"--batch-size {config.batch_size // world.size}{pieces}")
    dtype, precision = world.agree((dtype, precision))
    check_recorded(config, cohort, dtype, device, world.size, first.shape[2])
    together = config.sync_bn and world.size > 1  # messages between processes keep one order
    threads = 0 if together else threads_for(config.threads, cohort, device)
    most = int(config.threads) if config.threads.isdecimal() else 0
    if device == "cpu" and most > cores():
        say(f"Note: --threads {most} is more than the {cores()} cores here; --threads auto is faster.")
    return Engine(cohort, graph, device, dtype, threads, most), precision


def _warm_up(
    config: TrainConfig, engine: Engine, data: Data, starts: Mapping[str, Start], mean: Tensor, std: Tensor
) -> None:
    """What trained weights are given before the first step: kept statistics, and heads that fit."""
    if not config.weights:
        return
    if config.keep_statistics:
        for part in [*engine.cohort.peers, *(calibrated(engine.cohort) if config.fit_heads else [])]:
            part.keeps_statistics = True
    if config.fit_heads and starts:
        fresh = [arch for arch, start in starts.items() if start.classes != tuple(data.classes)]
        fit_heads(engine, data.train, mean, std, fresh)


def _optimizer(config: TrainConfig, cohort: Cohort) -> torch.optim.Optimizer:
    """Of all that learns, as a resolved config has it."""
    assert (
        config.lr and config.weight_decay is not None and config.fresh_lr and config.decay_norms is not None
    )
    ready = fitted(cohort) if config.fit_heads else []
    groups = cohort.parameter_groups(config.weight_decay, config.decay_norms, config.fresh_lr, ready)
    plain, fused = not config.graph, config.graph
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, foreach=plain, fused=fused)
    return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True, foreach=plain, fused=fused)


def _within(
    config: TrainConfig, engine: Engine, optimizer: torch.optim.Optimizer, batches: Batches, data: Data,
    pixels: tuple[Tensor, Tensor], began: float, world: World,
) -> tuple[TrainConfig, Batches]:  # fmt: skip
    """The config with as many epochs and steps as fit into its time, and batches of so many steps."""
    costs = measured(engine, optimizer, batches, data, *pixels, config)
    left = seconds_of(config.time or "") - (time.perf_counter() - began)
    epochs, steps = world.agree(fitting(costs, config.time or "", left, batches.steps, data))
    config = replace(config, time=None, epochs=epochs, steps=steps)
    return config, _batches(config, data, engine.device, engine.cohort.views, world)


def _pixels(data: Data, starts: Mapping[str, Start], resume: Run | None) -> tuple[list[float], list[float]]:
    """Mean and deviation that pictures are normalised by: of the run, of the weights, or of the data."""
    if resume is not None:
        return resume.spec["mean"], resume.spec["std"]
    return pixels_of(starts) or pixel_statistics(data.train)


def pictures_of(config: TrainConfig, runs: Path, resume: Run | None = None, world: World = ALONE) -> Data:
    """What a training looks at, or looked at where it is gone on with."""
    names = [name for name in (config.arch or "").split(",") if name]
    if resume is None:
        check_meaning(config.data)
    with decoding() as report:
        largest = min([architecture(name).largest for name in names], default=64)
        data = resumed(resume, report) if resume else load(config, report, largest, say, runs=runs)
    check_classes(data.classes, config.data)
    if config.patience and not len(data.val):
        raise UsageError("--patience needs pictures to validate on, and there are none.")
    world.check_alike("pictures, at --data,", data.fingerprint)
    return data


def _cohort(
    config: TrainConfig, method: Method, options: Any, data: Data, archs: tuple[str, ...],
    teachers: list[GivenTeacher], starts: Mapping[str, Start],
) -> tuple[TrainConfig, Cohort]:  # fmt: skip
    """The config without open settings; the networks, which begin alike for one seed whatever teaches them,
    and what the method adds.
    """
    torch.manual_seed(config.seed)
    peers = [create(arch, len(data.classes)) for arch in archs]
    for number, peer in enumerate(peers):
        with_own_random(peer, config.seed * 31 + number)
    for peer in peers if starts else ():
        begin_from(peer, starts[peer.arch], data.classes)
    for arch, start in starts.items():
        say(f"Weights: {told(start, arch, data.classes)}.")
    stages = min(len(peer.stages) for peer in peers)
    asked, config = config, resolved(config, data, stages)
    if asked.train_size not in (None, data.image_size) and config.augment != "photo":
        raise UsageError(f"--train-size {asked.train_size} has no meaning without --augment photo; add it.")
    frozen = stages + 1 if config.freeze == "all" else config.freeze_parts or 0
    if frozen > stages + 1:
        raise UsageError(f"--freeze-parts is {frozen}; the stem and the stages are {stages + 1}.")
    if any(isinstance(teacher, OpenedFile) for teacher in teachers):  # a file takes one size of pictures
        if config.augment == "photo" and asked.train_size not in (None, data.image_size):
            raise UsageError(f"--train-size: a teacher that is a file alone needs {data.image_size}.")
        config = replace(config, train_size=data.image_size)
    own, classes, pictures = config.views == "own", len(data.classes), len(data.train)
    given = Given(peers, classes, data.image_size, options, teachers, pictures, frozen, own)
    cohort = method.build(given)
    by_label = any("labels" in part.reads for part in cohort.parts.values())
    if (config.mixup or config.cutmix) and (by_label or method.looks_across == "epochs"):
        raise UsageError(f"{config.method} needs pictures of one class each; drop --mixup and --cutmix.")
    if own and len(peers) > 1 and cohort.views == 1:
        raise UsageError(f"--views own has no meaning for {config.method} as it is; drop it.")
    return config, cohort


def _batches(config: TrainConfig, data: Data, device: str, views: int, world: World) -> Batches:
    assert config.batch_size and config.train_size
    pad = 0 if config.augment == "none" else max(1, data.image_size // 8)
    side = config.train_size if config.augment == "photo" else 0
    flip = config.augment == "crop-flip" or (bool(side) and data.flip)
    policy = config.policy or "none"
    chance = {"erase": config.erasing or 0, "mixup": config.mixup or 0, "cutmix": config.cutmix or 0}
    augment = Augment(pad, flip, side, policy=policy, **chance)
    balanced, rows, steps = config.balance == "sampling", (world.rank, world.size), config.steps
    return Batches(data.train, config.batch_size, augment, config.seed, device, views, steps, balanced, rows)
