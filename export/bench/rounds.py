"""`lfdeploy bench`: latency of artifacts, of their PyTorch modules and of foreign ONNX files, in
interleaved rounds.

All rows get the same number of threads and, at one batch size, the same number of calls in every round, in
random order; so what else the machine does meets them alike, and ratios within a round can be trusted.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bench import busy
from export.bench.ratios import speed_ratio
from export.bench.subjects import Subject, open_subjects
from lfdeploy.console import Meter
from lfdeploy.devices import gpus
from lfdeploy.errors import LfdeployError, UsageError, choose
from lfdeploy.run import versions

MOST_CALLS = 50  # per round, batch and row
Job = tuple[int, int]  # which subject, which batch size


def bench_artifacts(
    names: Sequence[str],
    batches: Sequence[int],
    rounds: int = 30,
    device: str = "auto",
    runs: str = "runs",
    *,
    seconds: float = 10.0,
    threads: int | None = None,
    compiled: bool = False,
    against: str = "",
    backend: str = "auto",
) -> dict[str, Any]:
    """Rows of p50, p95 (ms), images/s, size, top-1 and speed against a reference, for every artifact and
    batch that runs here.

    For every target the run's own module is timed too, as backend ``pytorch``, with ``compiled`` also as
    ``torch.compile`` and, on a GPU, as ``cuda graph``; a .onnx file that is no artifact is a row of latency
    and size alone. ``ratio`` says how many times as fast a row is as the one ``against`` names: by default
    the eager module of its target, else the first row; ``ratio_low`` and ``ratio_high`` bound it (95 %,
    bootstrap over rounds). ``rounds`` are always made; ``seconds`` decides how many calls a round has.
    ``threads`` None is PyTorch's own number. ``foreign_load`` is what else ran meanwhile, ``load`` the load
    average before. What cannot run is in ``notes``.
    """
    import torch

    if not batches or min(batches) < 1:
        raise UsageError(f"--batch {','.join(map(str, batches))}: sizes must be 1 or more.")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        return _bench(
            names,
            list(dict.fromkeys(batches)),
            rounds,
            device,
            runs,
            seconds,
            threads or before,
            compiled,
            against,
            backend,
        )
    finally:
        torch.set_num_threads(before)


def _bench(
    names: Sequence[str],
    batches: list[int],
    rounds: int,
    device: str,
    runs: str,
    seconds: float,
    threads: int,
    compiled: bool,
    against: str,
    backend: str,
) -> dict[str, Any]:
    load = os.getloadavg()[0]
    subjects, notes = open_subjects(names, device, runs, threads, compiled, backend)
    if not subjects:
        raise LfdeployError(notes[0] if notes else "there is nothing to measure")
    if against:
        choose("--against row", against, list(dict.fromkeys(s.artifact for s in subjects)))
    jobs, more = _warm({(i, b): s for b in batches for i, s in enumerate(subjects) if s.least <= b <= s.most})
    notes += _absent(subjects, batches) + more
    if not jobs:
        raise LfdeployError(notes[-1])
    calls = _calls(jobs, seconds / rounds)
    times, readings = _measure(jobs, subjects, calls, rounds)
    foreign = busy.summary(readings) if readings else None
    notes += [text for text in [busy.note(foreign, load, os.cpu_count() or 1)] if text]
    on_gpu = any(subject.device.startswith("cuda") for subject in subjects)
    machine = gpus()[0].name if on_gpu and gpus() else f"{os.cpu_count()} CPU cores"
    return {
        "machine": machine,
        "processor": _processor(),
        "threads": threads,
        "rounds": rounds,
        "load": load,
        "foreign_load": foreign,
        "versions": versions(),
        "rows": _rows(times, subjects, against, calls),
        "notes": notes,
    }


def _rows(
    times: dict[Job, NDArray[np.float64]], subjects: list[Subject], against: str, calls: dict[int, int]
) -> list[dict[str, Any]]:
    """Every job's percentiles and its speed against its reference, from its ms as (rounds, calls)."""
    rows = []
    for (index, batch), found in times.items():
        subject = subjects[index]
        p5, p50, p95 = (float(p) for p in np.percentile(found, [5, 50, 95]))
        row: dict[str, Any] = {
            "artifact": subject.artifact,
            "backend": subject.backend,
            "device": subject.device,
            "batch": batch,
            "p50_ms": p50,
            "p95_ms": p95,
            "images_per_second": 1e3 * batch / p50,
            "samples": int(found.size),
            "bytes": subject.bytes,
            "top1": subject.top1,
            "foreign": subject.foreign,
            "p5_ms": p5,
            "calls": calls[batch],
            "ratio": None,
            "ratio_low": None,
            "ratio_high": None,
            "against": None,
        }
        reference = _reference(subject, against, [i for i, b in times if b == batch], subjects)
        if reference is not None:
            speed, other = speed_ratio(times[reference, batch], found), subjects[reference]
            row |= {"ratio": speed.ratio, "ratio_low": speed.low, "ratio_high": speed.high}
            row["against"] = f"{other.artifact} ({other.backend})"
        rows.append(row)
    return rows


def _absent(subjects: list[Subject], batches: list[int]) -> list[str]:
    """A note for every subject that does not take all the batch sizes."""
    notes = []
    for subject in subjects:
        left = [str(b) for b in batches if not subject.least <= b <= subject.most]
        if left:
            takes = (
                f"{subject.least}" if subject.least == subject.most else f"{subject.least} to {subject.most}"
            )
            notes.append(
                f"{subject.artifact} ({subject.backend}) takes batches of {takes}: no row for "
                f"{', '.join(left)}."
            )
    return notes


def _clock(call: Callable[[Any], object], images: NDArray[Any]) -> float:
    start = time.perf_counter()
    call(images)
    return (time.perf_counter() - start) * 1e3


def warm_up(once: Callable[[], float], most_ms: float = 2000.0) -> float:
    """Call until the last three are no longer faster than all before, or time is up; the fastest in ms.

    ``once`` makes one call and returns its ms. At least two are made: the first may compile.
    """
    times = [once(), once()]
    while len(times) < 50 and sum(times[1:]) < most_ms:
        if len(times) >= 6 and min(times[-3:]) > 0.97 * min(times[:-3]):
            break
        times.append(once())
    return min(times)


def _warm(jobs: dict[Job, Subject]) -> tuple[dict[Job, float], list[str]]:
    """The expected ms of every job; a job that fails is left out, with a note."""
    found, notes = {}, []
    with Meter("Warming up", len(jobs), "rows") as meter:
        for number, (job, subject) in enumerate(jobs.items()):
            images = subject.feed(job[1])
            try:
                found[job] = warm_up(lambda s=subject, x=images: _clock(s.call, x))  # type: ignore[misc]
            except LfdeployError as error:
                notes.append(f"No row: {error}")
            meter.at(number + 1)
    return found, notes


def _calls(jobs: dict[Job, float], seconds: float) -> dict[int, int]:
    """Calls per round by batch size, the same for all rows: each batch size gets an equal part of the
    round's seconds.
    """
    sums: dict[int, float] = {}
    for (_, batch), ms in jobs.items():
        sums[batch] = sums.get(batch, 0.0) + ms
    return {batch: max(1, min(MOST_CALLS, int(seconds * 1e3 / len(sums) / ms))) for batch, ms in sums.items()}


def _measure(
    jobs: dict[Job, float], subjects: list[Subject], calls: dict[int, int], rounds: int
) -> tuple[dict[Job, NDArray[np.float64]], list[tuple[busy.Reading, busy.Reading]]]:
    """ms of every job as (rounds, calls), and the machine's counters around every round."""
    random = np.random.default_rng(0)
    times = {(i, b): np.zeros((rounds, calls[b])) for i, b in jobs}
    images = {(i, b): subjects[i].feed(b) for i, b in jobs}
    readings = []
    with Meter("Measuring", rounds, "rounds") as meter:
        for number in range(rounds):
            before = busy.read()
            for batch in random.permutation(list(calls)):  # rows that are compared are measured side by side
                for index in random.permutation([i for i, b in jobs if b == batch]):
                    job = (int(index), int(batch))
                    for call in range(calls[job[1]]):
                        times[job][number, call] = _clock(subjects[job[0]].call, images[job])
            after = busy.read()
            readings += [(before, after)] if before and after else []
            meter.at(number + 1)
    return times, readings


def _reference(subject: Subject, against: str, there: list[int], subjects: list[Subject]) -> int | None:
    """Which of the subjects that are ``there`` the ratio is against; None if the named one is not."""
    if against:
        return next((i for i in there if subjects[i].artifact == against), None)
    own = [i for i in there if subjects[i].backend == "pytorch" and subjects[i].module == subject.module]
    return (own or there)[0]


def _processor() -> str:
    """The CPU's name as it tells it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
