"""`lfdeploy bench`: latency of artifacts and of their PyTorch modules, in interleaved rounds."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfdeploy.artifact import Artifact, input_of, resolve, run_of
from lfdeploy.backends import BACKENDS, Session, Source, chosen
from lfdeploy.console import Meter
from lfdeploy.devices import gpus
from lfdeploy.errors import LfdeployError, UsageError

CALLS = 3  # per round, batch and artifact


@dataclass(frozen=True)
class _Subject:
    name: str
    session: Session
    size: int
    most: int
    bytes: int
    top1: float | None


def bench_artifacts(
    names: Sequence[str], batches: Sequence[int], rounds: int, device: str = "auto", runs: str = "runs", backend: str = "auto"
) -> dict[str, Any]:
    """Rows of p50, p95 (ms), images/s, size and top-1 for every artifact and batch size that runs here.

    For every target the run's own module is timed too, as backend ``pytorch``. What cannot run is in ``notes``.
    """
    if not batches or min(batches) < 1:
        raise UsageError(f"--batch {','.join(map(str, batches))}: sizes must be 1 or more.")
    subjects, notes = _open(names, device, runs, backend)
    if not subjects:
        raise LfdeployError(notes[0] if notes else "there is nothing to measure")
    jobs = [(s, b) for s in subjects for b in batches if b <= s.most]
    random = np.random.default_rng(0)
    pixels = {(s.size, b): random.integers(0, 256, (b, s.size, s.size, 3), dtype=np.uint8) for s, b in jobs}
    times: dict[int, list[float]] = {i: [] for i in range(len(jobs))}
    with Meter("Measuring", rounds + 1, "rounds") as meter:
        for number in range(rounds + 1):  # the first one warms up
            for index in random.permutation(len(jobs)):
                subject, batch = jobs[index]
                for _ in range(CALLS):
                    start = time.perf_counter()
                    subject.session(pixels[subject.size, batch])
                    if number:
                        times[int(index)].append((time.perf_counter() - start) * 1e3)
            meter.at(number + 1)
    rows = []
    for index, (subject, batch) in enumerate(jobs):
        p50, p95 = np.percentile(times[index], [50, 95])
        rows.append({
            "artifact": subject.name, "backend": subject.session.backend, "device": subject.session.device, "batch": batch,
            "p50_ms": float(p50), "p95_ms": float(p95), "images_per_second": 1e3 * batch / float(p50), "samples": len(times[index]),
            "bytes": subject.bytes, "top1": subject.top1,
        })  # fmt: skip
    machine = gpus()[0].name if gpus() and device != "cpu" else f"{os.cpu_count()} CPU cores"
    load = os.getloadavg()[0]
    if load > (os.cpu_count() or 1) + 0.5:
        notes.append(f"The machine was busy (load {load:.1f}): trust ratios between rows, not milliseconds.")
    return {"machine": machine, "rounds": rounds, "load": load, "rows": rows, "notes": notes}


def _open(names: Sequence[str], device: str, runs: str, asked: str) -> tuple[list[_Subject], list[str]]:
    found, notes, modules = [], [], set()
    for name in names:
        artifact = resolve(name, runs)
        artifact.check_file()
        manifest = artifact.manifest
        size, most = int(manifest["input"]["height"]), int(manifest["batch"]["max"])
        target = str(manifest["target"])
        if (manifest["run"]["weights_sha256"], target) not in modules:
            modules.add((manifest["run"]["weights_sha256"], target))
            row = _module(artifact, target, size, most, device, runs)
            found += [row] if isinstance(row, _Subject) else []
            notes += [row] if isinstance(row, str) else []
        backend = chosen(manifest, asked)
        hindrance = BACKENDS[backend].cannot_run()
        if hindrance:
            notes.append(f"{artifact.name} ({manifest['bytes'] / 1e6:.2f} MB) is not in the table: {hindrance}.")
            continue
        session = BACKENDS[backend].open(Source(artifact.file, manifest), device)
        found.append(_Subject(artifact.name, session, size, most, manifest["bytes"], _top1(artifact, "top1")))
    return found, notes


def _module(artifact: Artifact, target: str, size: int, most: int, device: str, runs: str) -> _Subject | str:
    try:
        run = run_of(artifact, None, runs)
    except LfdeployError as error:
        return f"No pytorch row for {target}: {error}"
    manifest = {"target": target, "input": input_of(size), "batch": {"max": most}}
    session = BACKENDS["pytorch"].open(Source(run.weights, manifest, run), device)
    weights = sum(p.numel() * p.element_size() for p in session.module.parameters())  # type: ignore[attr-defined]
    return _Subject(target, session, size, most, weights, _top1(artifact, "top1_reference"))


def _top1(artifact: Artifact, key: str) -> float | None:
    accuracy = artifact.manifest.get("accuracy")
    return None if not accuracy else float(accuracy[key])
