"""The artifacts a page offers: opened where they run here, listed with a reason where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lfdeploy.artifact import Artifact, of_run
from lfdeploy.artifact import resolve as resolve_artifact
from lfdeploy.errors import LfdeployError
from lfdeploy.predict import Predictor
from lfdeploy.run import Run, shown
from lfdeploy.runs import resolve as resolve_run

#: What parity's verdicts are called on the page.
VERDICTS = {"pass": "export verified", "unverified": "unverified", "fail": "parity failed"}


@dataclass(frozen=True)
class Entry:
    """One artifact under the key it has in the picker; ``predictor`` is None where it cannot run, ``reason``
    says why. ``device`` and ``threads`` are what was asked for.
    """

    key: str
    artifact: Artifact
    predictor: Predictor | None = None
    reason: str = ""
    device: str = "auto"
    threads: int = 0

    @property
    def verdict(self) -> str:
        """``export verified``, ``unverified`` or ``parity failed``."""
        return VERDICTS.get(self.artifact.verdict, self.artifact.verdict)

    @property
    def explains(self) -> bool:
        """Whether it has a heat map."""
        return any(output["name"] == "heatmap" for output in self.artifact.manifest["outputs"])

    @property
    def cannot(self) -> str:
        """The sentence for an artifact that does not run on this machine."""
        return f"{self.key} cannot run here: {self.reason.rstrip('.')}. Pick another artifact."

    @property
    def choice(self) -> str:
        """How the picker names it: what sets it apart from others, and whether it runs here."""
        accuracy = self.artifact.manifest.get("accuracy") or {}
        parts = [self.key, f"{accuracy['top1']:.1f} % right" if "top1" in accuracy else ""]
        doubt = "" if self.verdict == VERDICTS["pass"] else self.verdict
        parts += ["heat map" if self.explains else "", doubt]
        return " · ".join(part for part in parts if part) + ("" if self.predictor else ", cannot run here")


def find(artifacts: Sequence[str | Path], runs: str | Path = "runs") -> list[Artifact]:
    """The named artifacts in their order, of a named run all; or all of the newest run.

    Raises `LfdeployError` when there are none.
    """
    if artifacts:
        found = [artifact for given in artifacts for artifact in _named(given, runs)]
        return list({artifact.path.resolve(): artifact for artifact in found}.values())
    return _of(resolve_run(None, runs))


def _named(given: str | Path, runs: str | Path) -> list[Artifact]:
    for path in (Path(given), Path(runs) / given) if str(given) else ():
        if (path / "config.json").is_file() and not (path / "manifest.json").is_file():
            return _of(resolve_run(given, runs))
    return [resolve_artifact(given, runs)]


def _of(run: Run) -> list[Artifact]:
    found = of_run(run)
    if not found:
        run.finished()
        command = f"lfdeploy export {shown(run.path)} --peer 0 --format onnx"
        raise LfdeployError(f"Run {run.name} has no artifacts to serve yet. Make one with: {command}")
    return found


def open_all(artifacts: Sequence[Artifact], device: str = "auto", threads: int = 0) -> tuple[Entry, ...]:
    """Open each artifact and let it answer once, so that the first visitor does not
    wait for it to warm up.
    """
    return tuple(
        open_entry(key, artifact, device, threads)
        for key, artifact in zip(_keys(artifacts), artifacts, strict=True)
    )


def open_entry(key: str, artifact: Artifact, device: str, threads: int = 0) -> Entry:
    """Open one artifact; where it cannot run, the entry says why."""
    try:
        predictor = Predictor.open(artifact.path, device=device, threads=threads)
        predictor.run(np.zeros((1, predictor.size, predictor.size, 3), np.uint8))
    except (LfdeployError, RuntimeError, OSError) as error:
        return Entry(
            key,
            artifact,
            reason=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            device=device,
            threads=threads,
        )
    return Entry(key, artifact, predictor, device=device, threads=threads)


def _keys(artifacts: Sequence[Artifact]) -> list[str]:
    """Names that tell artifacts apart: the directory's; with its run's where two share it; numbered where
    that is not enough.
    """
    many = Counter(artifact.name for artifact in artifacts)
    keys: list[str] = []
    for artifact in artifacts:
        plain = (
            artifact.name
            if many[artifact.name] == 1
            else f"{artifact.manifest['run']['name']}/{artifact.name}"
        )
        key, number = plain, 2
        while key in keys:
            key, number = f"{plain} ({number})", number + 1
        keys.append(key)
    return keys


def mapless(key: str, able: Sequence[str]) -> str:
    """The sentence for an artifact without a heat map, where others may have one."""
    none = f"The artifact {key} has no heat map"
    if able:
        return f"{none}. Choose one that has: {', '.join(able)}."
    return f"{none}. Whoever exported it can make one that has: lfdeploy export --explain."


def preferred(entries: Sequence[Entry]) -> Entry:
    """The entry a page opens with: one that runs and is verified, of these the fused before a peer, fp32
    before less.
    """

    def rank(entry: Entry) -> tuple[bool, bool, bool, bool]:
        manifest = entry.artifact.manifest
        return (
            entry.predictor is None,
            entry.artifact.verdict != "pass",
            manifest["target"] != "fused",
            manifest["precision"] != "fp32",
        )

    return min(entries, key=rank)
