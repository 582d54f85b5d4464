"""What `lfdeploy bench` measures: artifacts, the PyTorch modules they came from, and other exporters'
ONNX files.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bench.foreign import ForeignFile, is_foreign, open_foreign
from lfdeploy.artifact import Artifact, input_of, resolve, run_of
from lfdeploy.backends import BACKENDS, Source, chosen
from lfdeploy.errors import LfdeployError


@dataclass(frozen=True)
class Subject:
    """One opened model. ``call`` takes what ``feed(batch)`` makes, for batches from ``least`` to ``most``.

    ``module`` is the weights and target whose PyTorch module is its natural reference; a foreign file
    has none.
    """

    artifact: str
    backend: str
    device: str
    call: Callable[[Any], object]
    feed: Callable[[int], NDArray[Any]]
    least: int
    most: int
    bytes: int
    top1: float | None
    run: str = ""
    module: tuple[str, str] | None = None

    @property
    def foreign(self) -> bool:
        """Not one of our artifacts."""
        return self.module is None


def open_subjects(
    names: Sequence[str], device: str, runs: str, threads: int, compiled: bool, backend: str = "auto"
) -> tuple[list[Subject], list[str]]:
    """Everything that runs here, every module right before its first artifact, and a note for what does
    not run.
    """
    notes: list[str] = []
    found: list[Subject] = []
    names = list(dict.fromkeys(names))
    given = _given(names, runs, notes)
    sides = [int(a.manifest["input"]["height"]) for a in given if isinstance(a, Artifact)]
    for one in given:
        if isinstance(one, str):
            try:
                found.append(
                    _foreign_subject(open_foreign(one, device, threads, sides[0] if sides else None))
                )
            except LfdeployError as error:
                if len(names) == 1:
                    raise
                notes.append(f"{one} is not in the table: {error}")
            continue
        one.check_file()
        key = (str(one.manifest["run"]["weights_sha256"]), str(one.manifest["target"]))
        if key not in [s.module for s in found]:
            _add_modules(one, key, device, runs, compiled, found, notes)
        _add_artifact(one, key, device, threads, backend, found, notes)
    return _distinct(found), notes


def _given(names: list[str], runs: str, notes: list[str]) -> list[str | Artifact]:
    """Names of foreign files and artifacts; a note for what is neither, if it is not alone."""
    given: list[str | Artifact] = []
    for name in names:
        try:
            given.append(name if is_foreign(name) else resolve(name, runs))
        except LfdeployError as error:
            if len(names) == 1:
                raise
            notes.append(f"{name} is not in the table: {error}")  # the others are measured all the same
    return given


def _foreign_subject(file: ForeignFile) -> Subject:
    name, backend, device = file.path.name, file.session.backend, file.session.device
    return Subject(name, backend, device, file, file.feed, *file.batches, file.bytes, None)


def _add_modules(
    artifact: Artifact,
    key: tuple[str, str],
    device: str,
    runs: str,
    compiled: bool,
    found: list[Subject],
    notes: list[str],
) -> None:
    """The eager module's row, and torch.compile's and on a GPU a CUDA graph's; or a note."""
    import torch

    from lfdeploy.backends.pytorch import TorchSession

    target, side = key[1], int(artifact.manifest["input"]["height"])
    try:
        run = run_of(artifact, None, runs)
    except LfdeployError as error:
        notes.append(f"No pytorch row for {target}: {error}")
        return
    manifest = {
        "target": target,
        "input": input_of(side),
        "batch": {"max": int(artifact.manifest["batch"]["max"])},
    }
    sessions = [TorchSession(Source(run.weights, manifest, run), device)]
    weights = sum(p.numel() * p.element_size() for p in sessions[0].module.parameters())
    hindrance = _no_compiler() if compiled else ""
    if hindrance:
        notes.append(f"No torch.compile row for {target}: {hindrance}")
    elif compiled:
        # "no CUDA runtime", where none is wanted
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        fast = TorchSession(Source(run.weights, manifest, run), device)
        fast.backend, fast.module = "torch.compile", torch.compile(fast.module)  # type: ignore[assignment]
        sessions.append(fast)
    if compiled and sessions[0].device == "cuda":
        from export.bench.cuda_graph import GraphSession

        sessions.append(GraphSession(Source(run.weights, manifest, run), device))
    found += [_subject(artifact, target, key, session, weights, "top1_reference") for session in sessions]


def _add_artifact(
    artifact: Artifact,
    key: tuple[str, str],
    device: str,
    threads: int,
    backend: str,
    found: list[Subject],
    notes: list[str],
) -> None:
    """The artifact's row, or a note."""
    manifest = artifact.manifest
    row, size = BACKENDS[chosen(manifest, backend)], int(manifest["bytes"])
    hindrance = row.cannot_run()
    if hindrance:
        notes.append(f"{artifact.name} ({size / 1e6:.2f} MB) is not in the table: {hindrance}.")
        return
    try:
        session = row.open(Source(artifact.file, manifest, None, threads), device)
    except LfdeployError as error:
        notes.append(f"{artifact.name} is not in the table: {error}")
        return
    found.append(_subject(artifact, artifact.name, key, session, size, "top1"))


def _no_compiler() -> str:
    """Why torch.compile cannot make kernels for the CPU here, or an empty string."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return "" if shutil.which(get_cpp_compiler()) else "the C++ compiler that CXX names is not there."
    except InvalidCxxCompiler:
        return "it needs a C++ compiler; install g++, or set CXX to one."


def _subject(
    artifact: Artifact, name: str, key: tuple[str, str], session: Any, size: int, accuracy: str
) -> Subject:
    manifest = artifact.manifest
    side, most, told = (
        int(manifest["input"]["height"]),
        int(manifest["batch"]["max"]),
        manifest.get("accuracy"),
    )

    def feed(batch: int) -> NDArray[np.uint8]:
        return np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)

    top1 = float(told[accuracy]) if told else None
    run = str(manifest["run"]["name"])
    return Subject(name, session.backend, session.device, session, feed, 1, most, size, top1, run, key)


def _distinct(found: list[Subject]) -> list[Subject]:
    """With its run before every name that several rows of one backend share."""
    count = Counter((s.artifact, s.backend) for s in found)
    shared = {name for (name, _), times in count.items() if times > 1}
    return [
        replace(s, artifact=str(Path(s.run) / s.artifact)) if s.artifact in shared and s.run else s
        for s in found
    ]
