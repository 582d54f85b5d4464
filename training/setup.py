"""Everything that a training needs before its first step, from a config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfdeploy import record
from lfdeploy.config import TrainConfig, parse_options
from lfdeploy.console import decoding, say
from lfdeploy.data import Data, load
from lfdeploy.devices import pick
from lfdeploy.errors import UsageError, choose
from lfdeploy.images import RESIZE
from lfdeploy.locks import Lock
from lfdeploy.models import architecture, canonical, create
from lfdeploy.names import check_classes, stem_of
from lfdeploy.run import SCHEMA, Run, config_json
from lfdeploy.run_data import resumed
from lfdeploy.runs import may_begin, new_run, point_latest
from training import checkpoint
from training.augment import normalise
from training.batches import Augment, Batches, pixel_statistics
from training.cohort import Cohort
from training.engine import Engine, exact_fp32, pick_precision, threads_for
from training.guards import check_batch_of_one
from training.methods import METHODS
from training.methods.method import Given, Method
from training.parts import GivenTeacher
from training.teachers import check_teachers, find, names_of, teachers_of
from training.weights import Start, begin_from, pixels_of, starts_of, told

FROM_SCRATCH, GENTLE = 0.1, 0.01  # peak learning rates


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
    freeze: int


def prepare(config: TrainConfig, name: str | None, runs: Path, resume: Run | None, held: list[Lock]) -> Setup:
    """Read, build, and begin the run's directory; the lock of a run that begins here is added to ``held``."""
    if resume is None:
        may_begin(runs, name)
    choose("method", config.method, list(METHODS))
    method = METHODS[config.method]
    check_teachers(config.method, method.teachers, config.teacher)
    home = runs if resume is None else resume.path.parent
    # found, or refused, before anything is decoded
    teachers = [find(teacher, home) for teacher in names_of(config.teacher)]
    begun = resume is not None and checkpoint.saved(resume) is not None
    starts = {} if begun else starts_of(config.weights, config.arch, home)
    options = parse_options(method.options, config.option, config.method)
    device = pick(config.device)
    exact_fp32(device)
    data = _pictures(config, resume)
    archs = config.archs(data.arch, method.peers)
    if len(archs) < method.least:
        raise UsageError(
            f"Method {config.method} needs at least {method.least} networks, not {len(archs)}: add "
            f"--peers {method.least}."
        )
    mean, std = _pixels(data, starts, resume)
    given = teachers_of(teachers, data, mean, std)
    cohort = _cohort(config, method, options, data, archs, given, starts)
    cohort = cohort.to(device).to(memory_format=torch.channels_last)
    mean_here, std_here = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    batches = _batches(config, data, device, cohort.views)
    first = normalise(torch.from_numpy(data.train.images[:64].copy()).to(device), mean_here, std_here)
    dtype, precision = pick_precision(config.precision, cohort, device, first)
    if batches.batch_size == 1:
        check_batch_of_one(cohort, first[:1])
    threads = threads_for(config.threads, cohort, device)
    lr = config.lr or (GENTLE if config.weights else FROM_SCRATCH)
    groups = cohort.parameter_groups(config.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, foreach=True)
    run = _begin(config, name, runs, data, archs, cohort, (mean, std), held) if resume is None else resume
    engine = Engine(cohort, method.graph(cohort, options), device, dtype, threads)
    point_latest(run)
    epochs = config.epochs or data.epochs
    how = f"{device}, {precision}" + (f", {threads} threads" if threads else "")
    _say(run, config, data, archs, batches, epochs, how)
    rates = lr, config.schedule, config.warmup
    return Setup(
        run, data, engine, optimizer, batches, mean_here, std_here, epochs, *rates, precision, config.freeze
    )


def _pixels(data: Data, starts: Mapping[str, Start], resume: Run | None) -> tuple[list[float], list[float]]:
    """Mean and deviation that pictures are normalised by: of the run, of the weights, or of the data."""
    if resume is not None:
        return resume.spec["mean"], resume.spec["std"]
    return pixels_of(starts) or pixel_statistics(data.train)


def _pictures(config: TrainConfig, resume: Run | None) -> Data:
    names = [canonical(a) for a in (config.arch or "").split(",") if a]
    with decoding() as report:
        largest = min([architecture(a).largest for a in names], default=64)
        data = load(config, report, largest, say) if resume is None else resumed(resume, report)
    check_classes(data.classes, config.data)
    return data


def _cohort(
    config: TrainConfig,
    method: Method,
    options: Any,
    data: Data,
    archs: tuple[str, ...],
    teachers: list[GivenTeacher],
    starts: Mapping[str, Start],
) -> Cohort:
    """The networks, which begin alike for one seed whatever teaches them, and what the method adds."""
    torch.manual_seed(config.seed)
    peers = [create(arch, len(data.classes)) for arch in archs]
    for peer in peers if starts else ():
        begin_from(peer, starts[peer.arch], data.classes)
    for arch, start in starts.items():
        say(f"Weights: {told(start, arch, data.classes)}.")
    return method.build(Given(peers, len(data.classes), data.image_size, options, teachers, len(data.train)))


def _batches(config: TrainConfig, data: Data, device: str, views: int) -> Batches:
    size = config.batch_size or max(8, min(128, 2 ** int(math.log2(max(1, len(data.train) / 16)))))
    augment = config.augment if config.augment != "auto" else "crop-flip" if data.flip else "crop"
    pad = 0 if augment == "none" else max(1, data.image_size // 8)
    return Batches(
        data.train,
        min(size, len(data.train)),
        Augment(pad, augment == "crop-flip"),
        config.seed,
        device,
        views,
    )


def _begin(
    config: TrainConfig, name: str | None, runs: Path, data: Data, archs: tuple[str, ...], cohort: Cohort,
    pixels: tuple[list[float], list[float]], held: list[Lock],
) -> Run:  # fmt: skip
    mean, std = pixels
    spec = {
        "schema": SCHEMA,
        "method": config.method,
        "archs": list(archs),
        "classes": list(data.classes),
        "image_size": data.image_size,
        "resize": RESIZE,
        "mean": mean,
        "std": std,
        "data_fingerprint": data.fingerprint,
    } | cohort.layout.document()
    stem = stem_of("-".join((data.name, config.method, *dict.fromkeys(archs))))
    documents = {"config.json": config_json(config), "spec.json": spec, record.FILE: record.to_bytes(data)}
    run, lock = new_run(runs, name, stem, documents)
    held.append(lock)
    return run


def _say(
    run: Run, config: TrainConfig, data: Data, archs: tuple[str, ...], batches: Batches, epochs: int, how: str
) -> None:
    say(
        f"Run {run.name}: {' + '.join(archs)} by {config.method} on {data.name}, "
        f"{data.image_size}x{data.image_size} px"
    )
    for remark in data.remarks:
        say(f"Note: {remark}.")
    for fault in data.bad[:5]:
        say(f"Left out: {fault}")
    if data.bad:
        say(f"Left out {len(data.bad)} file{'s' if len(data.bad) > 1 else ''} in all.")
    say(
        f"{len(data.classes)} classes, {len(data.train)} training pictures, {len(data.val)} "
        f"validation, {len(data.test)} test; "
        f"{epochs} epochs of {batches.steps} steps of {batches.batch_size}; {how}"
    )
