"""`lfdeploy bench train`: our steps against a plain loop over the same networks and losses, interleaved.

The plain loop is what a first script does: a DataLoader with per-image transforms (four workers where a GPU
waits), fp32, NCHW, eager, all networks one after the other. Same cohort, loss graph, optimiser and batch.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lfdeploy.config import parse_options
from lfdeploy.console import Meter
from lfdeploy.data import Split
from lfdeploy.devices import instruction_set, pick
from lfdeploy.errors import UsageError, choose
from lfdeploy.models import canonical, create
from training.augment import Augment, normalise
from training.batches import Batches
from training.cohort import Cohort
from training.compare.entries import Entry, entries_of
from training.dropout import with_own_random
from training.engine import Engine, threads_for
from training.losses import LossGraph
from training.methods import METHODS
from training.methods.method import Given
from training.precision import exact_fp32, pick_precision, settle
from training.recorded import Recorded, draws

BATCH, SIZE, CLASSES = 128, 32, 100
STEPS = {"cpu": 2, "cuda": 20}  # of a round
MEAN, STD = [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Arrays behind torchvision's per-image transforms."""

    def __init__(self, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
        from torchvision import transforms as t

        self.images, self.labels = images, labels
        crop = t.RandomCrop(SIZE, padding=4, padding_mode="reflect")
        self.transform = t.Compose([crop, t.RandomHorizontalFlip(), t.ToTensor(), t.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def bench_training(arch: str, methods: str, rounds: int, device: str = "auto") -> dict[str, Any]:
    """Milliseconds per step (median over rounds) of each loop and its ratio to the first, all in one run.

    Of one method: our step in each precision against a plain loop. Of several (``independent,ffl``, with
    options as in `lfdeploy compare`): our step of each against that of the first, which is what it costs.
    """
    arch, entries = canonical(arch), entries_of(methods)
    for entry in entries:
        choose("method", entry.method, [name for name, row in METHODS.items() if not row.teachers])
        if entry.settings:
            raise UsageError(
                f"--method {entry.label}: {entry.settings[0][0]} is measured by lfdeploy compare."
            )
    if rounds < 3:
        raise UsageError(f"--rounds is {rounds}; at least 3 are needed.")
    where = pick(device)
    cores = torch.get_num_threads()  # an engine with threads of its own takes all but one from its caller
    peers = max(2, *(METHODS[entry.method].least for entry in entries))
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, cores)
        make = _against_plain if len(entries) == 1 else _against_first
        times = _timed(make(arch, entries, peers, where, stack), rounds, where, cores)
    first = np.array(next(iter(times.values())))
    rows = [_row(name, np.array(milliseconds), first) for name, milliseconds in times.items()]
    low, high = ("ratio_min", "ratio_max") if len(entries) == 1 else ("cost_min", "cost_max")
    spread = ", ".join(f"{row[low]:.2f} to {row[high]:.2f}" for row in rows[1:])
    return {
        "arch": arch,
        "method": methods,
        "peers": peers,
        "batch": BATCH,
        "device": f"{os.cpu_count()} CPU cores ({instruction_set()})" if where == "cpu" else where,
        "rows": rows,
        "notes": [
            f"Median of {rounds} interleaved rounds of {STEPS[where]} steps; the ratios ran from {spread}."
        ],
    }


def _pictures() -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4096, SIZE, SIZE, 3), dtype=np.uint8)
    return images, random.integers(0, CLASSES, 4096)


def _begun(arch: str, entry: Entry, peers: int, device: str) -> tuple[Cohort, LossGraph]:
    """Networks with the same weights for every entry, and the method's losses."""
    method = METHODS[entry.method]
    options = parse_options(method.options, entry.options, entry.method)
    torch.manual_seed(0)
    networks = [create(arch, CLASSES) for _ in range(peers)]
    cohort = method.build(Given(networks, CLASSES, SIZE, options, pictures=4096)).to(device)
    return cohort, method.graph(cohort, options)


def _precision(cohort: Cohort, images: Any, device: str) -> torch.dtype:
    mean, std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
    sample = normalise(torch.from_numpy(images[:64]).to(device), mean, std)
    return pick_precision("auto", cohort, device, sample)[0]


def _against_plain(
    arch: str, entries: list[Entry], peers: int, device: str, stack: ExitStack
) -> dict[str, Callable[[], None]]:
    """A step of the plain loop, and ours in fp32 and, where that is another, in what training would take.

    Our engines are closed with ``stack``.
    """
    images, labels = _pictures()
    cohort, graph = _begun(arch, entries[0], peers, device)
    loops = {
        "plain: fp32, NCHW, eager, DataLoader": _plain(copy.deepcopy(cohort), graph, images, labels, device)
    }
    chosen = _precision(cohort, images, device)
    for dtype in dict.fromkeys((torch.float32, chosen)):
        precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        records = ["", "--graph", *(["--graph --compile"] if dtype == chosen else [])]
        for record in records if device == "cuda" and not draws(cohort) else [""]:
            threads, step = _ours(copy.deepcopy(cohort), graph, dtype, images, labels, device, stack, record)
            how = f"{threads} threads" if threads else f"{device}{', ' * bool(record)}{record}"
            loops[f"lfdeploy: {precision}, NHWC, {how}"] = step
    return loops


def _against_first(
    arch: str, entries: list[Entry], peers: int, device: str, stack: ExitStack
) -> dict[str, Callable[[], None]]:
    """Our step of each method, in the precision that training would take for the first."""
    images, labels = _pictures()
    loops: dict[str, Callable[[], None]] = {}
    dtype: torch.dtype | None = None
    for entry in entries:
        cohort, graph = _begun(arch, entry, peers, device)
        dtype = dtype or _precision(cohort, images, device)
        record = "--graph" if device == "cuda" and not draws(cohort) else ""
        threads, step = _ours(cohort, graph, dtype, images, labels, device, stack, record)
        how = f", {threads} threads" if threads else f", {record}" if record else ""
        loops[f"{entry.label}{how}"] = step
    return loops


def _timed(
    loops: dict[str, Callable[[], None]], rounds: int, device: str, cores: int
) -> dict[str, list[float]]:
    """Milliseconds of a step of each loop, one figure a round; a first round warms up and is not counted.

    ``cores``: threads of a loop that has none of its own.
    """
    times: dict[str, list[float]] = {name: [] for name in loops}
    with Meter("Measuring", rounds + 1, "rounds") as meter:
        for number in range(rounds + 1):
            for name, step in loops.items():
                torch.set_num_threads(1 if "threads" in name else cores)
                start = time.perf_counter()
                for _ in range(STEPS[device]):
                    step()
                settle(device)
                if number:
                    times[name].append((time.perf_counter() - start) / STEPS[device] * 1e3)
            meter.at(number + 1)
    return times


def _row(name: str, milliseconds: NDArray[np.float64], plain: NDArray[np.float64]) -> dict[str, Any]:
    median, ratios = float(np.median(milliseconds)), plain / milliseconds
    return {
        "loop": name,
        "ms": median,
        "images_per_second": 1e3 * BATCH / median,
        "ratio": float(np.median(ratios)),
        "ratio_min": float(ratios.min()),
        "ratio_max": float(ratios.max()),
        "cost": float(np.median(1 / ratios)),
        "cost_min": float((1 / ratios).min()),
        "cost_max": float((1 / ratios).max()),
        "rounds": len(milliseconds),
    }


def _optimizer(cohort: Cohort, record: bool = False) -> torch.optim.Optimizer:
    groups = cohort.parameter_groups(5e-4)
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, fused=record or None)


def _plain(cohort: Cohort, graph: LossGraph, images: Any, labels: Any, device: str) -> Callable[[], None]:
    # on a CPU workers would take cores from the step
    workers = min(4, os.cpu_count() or 1) if device == "cuda" else 0
    loader = torch.utils.data.DataLoader(
        _Pictures(images, labels),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    engine = Engine(cohort.train(), graph, device, torch.float32, 0, whole=True)
    optimizer = _optimizer(cohort)
    batches, ramps = _endless(lambda: iter(loader)), graph.ramps(1, 1, device)

    def step() -> None:
        _as_torch_begins()
        x, y = next(batches)
        given = engine.cohort.views_of(x.to(device)) | {"labels": y.to(device)}
        optimizer.zero_grad()
        engine.step(given, ramps)
        optimizer.step()

    return step


def _as_torch_begins() -> None:
    """CUDA as a first script has it: convolutions in TF32, summed in any order."""
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = False, True


def _ours(
    cohort: Cohort,
    graph: LossGraph,
    dtype: torch.dtype,
    images: Any,
    labels: Any,
    device: str,
    stack: ExitStack,
    record: str = "",
) -> tuple[int, Callable[[], None]]:
    """How many threads of its own our step has, and the step; ``record``: the flags that repeat one."""
    cohort = cohort.to(memory_format=torch.channels_last)
    for number, network in enumerate(cohort.networks):
        with_own_random(network, number)
    threads = threads_for("auto", cohort, device)
    engine = Engine(cohort.train(), graph, device, dtype, threads)
    stack.callback(engine.close)
    optimizer = _optimizer(cohort, bool(record))
    mean, std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
    split = Split(images, labels.astype(np.int64), "")
    source = Batches(split, BATCH, Augment(4, True), 0, device, cohort.views)
    batches, ramps = _endless(lambda: source.epoch(0)), graph.ramps(1, 1, device)

    recorded = Recorded(engine, optimizer, compiled="compile" in record) if record else None

    def step() -> None:
        exact_fp32(device)
        given = next(batches).given(mean, std)
        if recorded:
            recorded(given, ramps)
            return
        optimizer.zero_grad(set_to_none=True)
        engine.step(given, ramps)
        optimizer.step()

    return threads, step


def _endless(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    while True:
        yield from start()
