"""The parity gate: shipped bytes against the run's fp32 module, in a fresh process, stage by stage.

A stage is the name of what broke: file, input, names, shapes, dtypes, finite, values, labels, accuracy. All
checks of a stage are made; after a stage with a failed check, later stages are not tried. NaN passes nothing:
every comparison is written so that it is false for NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from export.contract import (
    Check,
    at_least,
    at_most,
    dtype_checks,
    equal,
    file_checks,
    input_checks,
    label_checks,
    name_checks,
    shape_checks,
    shown,
)
from export.half import Half, half_facts
from export.probes import batch_sizes, probe_pictures
from export.statistics import Comparison, compare, log_softmax, permutation
from lfdeploy.artifact import Artifact, input_of
from lfdeploy.backends import BACKENDS, Session, Source, executes
from lfdeploy.backends.base import Floats, in_chunks
from lfdeploy.data import Split
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels
from lfdeploy.run import Run


@dataclass(frozen=True)
class Bounds:
    """What a healthy export of a precision stays within; differences and margins are relative to the logits' scale."""

    difference: float
    agreement: float
    kl_mean: float
    kl_max: float
    flip_margin: float
    ci_low: float


BOUNDS = {
    "fp32": Bounds(2e-5, 99.95, 1e-7, 1e-5, 1e-4, -0.05),
    "fp16": Bounds(3e-3, 99.8, 2e-5, 1e-3, 5e-3, -0.1),
}
TWIN = 1e-3  # on a CPU, from the module with rounded weights: the runtime rounds once or twice more


@dataclass(frozen=True)
class Report:
    """A verdict with its checks. ``reason`` is one sentence for anything but a pass."""

    verdict: str
    reason: str
    subject: str
    checks: tuple[Check, ...]
    comparison: dict[str, Any] | None

    def document(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {
            "verdict": self.verdict, "reason": self.reason, "subject": self.subject,
            "checks": [asdict(check) for check in self.checks], "statistics": self.comparison,
        }  # fmt: skip


Stage = Callable[[], Iterator[Check]]
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Reference:
    """The fp32 module's logits for the pictures, computed once for all artifacts of a target."""

    run: Run
    target: str
    images: Split
    logits: Floats
    probes: Pixels
    probe_logits: Floats

    @cached_property
    def half(self) -> Half:
        """What fp16 does to this module, on some of the pictures and all probes."""
        some = min(512, len(self.images))
        pictures = np.asarray(self.images.images[:some])
        return half_facts(self.run.classifier(self.target), (pictures, self.logits[:some]), (self.probes, self.probe_logits))


def reference(run: Run, target: str, split: Split, size: int, tick: Tick = lambda count: None) -> Reference:
    """Run the module over the split and the probes."""
    manifest = {"target": target, "input": input_of(size), "batch": {"max": 256}}
    session = BACKENDS["pytorch"].open(Source(run.weights, manifest, run), "auto")
    probes = probe_pictures(size, np.ascontiguousarray(split.images[:8]))
    return Reference(run, target, split, _logits(session, split, 256, tick), probes, in_chunks(session, probes, 256)[0])


def _logits(session: Session, split: Split, batch: int, tick: Tick) -> Floats:
    parts = []
    for images, labels in split.batches(batch):
        parts.append(session(np.ascontiguousarray(images))[0])
        tick(len(labels))
    return np.concatenate(parts)


def judge(artifact: Artifact, run: Run, ref: Reference, device: str = "auto", tick: Tick = lambda count: None) -> Report:
    """Every stage for one artifact on this machine; an engine that cannot run here is judged by its source ONNX."""
    manifest = artifact.manifest
    backend = executes(manifest)
    hindrance = BACKENDS[backend].cannot_run()
    source = artifact.path / "source.onnx"
    subject, name = artifact.file, backend
    if hindrance and source.exists():
        subject, name = source, "onnxruntime"
    said = f"{name} on the published file" if subject == artifact.file else "onnxruntime on the ONNX file it was built from"
    checks: list[Check] = []
    comparison: list[Comparison] = []
    session: list[Session] = []

    def opened() -> Session:
        if not session:
            session.append(BACKENDS[name].open(Source(subject, manifest, run), device))
        return session[0]

    stages: dict[str, Stage] = {"file": lambda: file_checks(artifact, run), "input": lambda: input_checks(artifact, run)}
    runnable = not (hindrance and subject == artifact.file)
    if subject.suffix == ".onnx":
        stages.update(
            names=lambda: name_checks(subject), shapes=lambda: shape_checks(subject, manifest), dtypes=lambda: dtype_checks(subject)
        )
    if runnable:
        stages.update(
            finite=lambda: _finite(opened(), artifact, ref),
            values=lambda: _values(opened(), artifact, ref, comparison, tick),
            labels=lambda: _labels(artifact, run, comparison, subject),
            accuracy=lambda: _accuracy(comparison, manifest["precision"]),
        )
    else:
        stages["labels"] = lambda: label_checks(artifact, run, subject)
    for stage, make in stages.items():
        try:
            checks += make()
        except (LfdeployError, ValueError, KeyError, RuntimeError) as error:
            checks.append(Check(stage, "can be examined", str(error).splitlines()[0][:300], "no error", False))
        failed = [check for check in checks if not check.passed]
        if failed:
            worst = failed[0]
            reason = f"stage {worst.stage}: {worst.name} is {shown(worst.value)}, bound {shown(worst.bound)}"
            return Report("fail", reason, said, tuple(checks), comparison[0].document() if comparison else None)
    document = comparison[0].document() if comparison else None
    if hindrance:
        return Report("unverified", hindrance, said, tuple(checks), document)
    return Report("pass", "", said, tuple(checks), document)


def _finite(session: Session, artifact: Artifact, ref: Reference) -> Iterator[Check]:
    most = int(artifact.manifest["batch"]["max"])
    logits, probabilities = in_chunks(session, ref.probes, most)
    yield equal("finite", "non-finite outputs on probes", int((~np.isfinite(logits)).sum() + (~np.isfinite(probabilities)).sum()), 0)
    if artifact.manifest["precision"] == "fp16":
        yield equal("finite", "non-finite logits in true half arithmetic", ref.half.overflows, 0)


def _values(session: Session, artifact: Artifact, ref: Reference, comparison: list[Comparison], tick: Tick) -> Iterator[Check]:
    manifest = artifact.manifest
    bounds, most = BOUNDS[manifest["precision"]], int(manifest["batch"]["max"])
    if manifest["precision"] == "fp16":  # a deep network may be further from fp32 by nature
        bounds = replace(bounds, difference=min(2e-2, max(bounds.difference, 2 * ref.half.difference)))
    logits = _logits(session, ref.images, most, tick)
    bad = int((~np.isfinite(logits)).sum())
    if bad:
        yield Check("finite", "non-finite logits on test pictures", bad, 0, False)
        return
    found = compare(ref.logits, logits, ref.images.labels)
    comparison.append(found)
    swapped = permutation(ref.logits, logits, bounds.difference)
    if swapped:
        names = [f"{manifest['labels'][i]} at {manifest['labels'][j]}" for i, j in swapped[:3]]
        yield Check("labels", "order of the outputs", f"class {', '.join(names)}", "the run's order", False)
        return
    yield at_most("values", "largest difference / scale", found.max_difference, bounds.difference)
    yield at_most("values", "KL, mean", found.kl_mean, bounds.kl_mean)
    yield at_most("values", "KL, largest", found.kl_max, bounds.kl_max)
    yield at_most("values", "margin of flipped labels / scale", found.flip_margin, bounds.flip_margin)
    yield from _probes(session, manifest, ref, bounds)
    if manifest["precision"] == "fp16" and session.device == "cpu":
        half, probes = ref.half, in_chunks(session, ref.probes, most)[0]
        same = np.concatenate([logits[: len(half.twin) - len(probes)], probes])
        apart = float((np.abs(half.twin - same) / half.scale).max())
        yield at_most("values", "difference / scale from the module with fp16 weights", apart, TWIN)


def _probes(session: Session, manifest: dict[str, Any], ref: Reference, bounds: Bounds) -> Iterator[Check]:
    """Probe pictures, every batch size, equal rows, permuted rows, and that probabilities are the logits' softmax."""
    opt, most = int(manifest["batch"]["opt"]), int(manifest["batch"]["max"])
    logits, probabilities = in_chunks(session, ref.probes, most)
    found = compare(ref.probe_logits, logits, ref.probe_logits.argmax(1))
    apart = np.abs(logits - ref.probe_logits).max() / max(found.scale, float(np.abs(ref.logits).max()))
    yield at_most("values", "probes: largest difference / scale", apart, bounds.difference)
    yield at_most("values", "probes: margin of flipped labels / scale", found.flip_margin, bounds.flip_margin)
    softmax = np.abs(np.exp(log_softmax(logits)) - probabilities).max()
    yield at_most("values", "probabilities against softmax(logits)", softmax, 1e-5)
    spread, scale = 0.0, found.scale
    for size in batch_sizes(opt, most):
        rows = np.resize(np.arange(len(ref.probes)), size)
        spread = max(spread, float(np.abs(session(ref.probes[rows])[0] - logits[rows]).max()) / scale)
    yield at_most("values", f"batches {', '.join(map(str, batch_sizes(opt, most)))}: spread / scale", spread, bounds.difference)
    same = session(np.repeat(ref.probes[8:9], most, axis=0))[0]
    yield at_most("values", "equal rows: spread / scale", float(np.abs(same - same[0]).max()) / scale, bounds.difference)
    order = np.random.default_rng(7).permutation(min(most, len(ref.probes)))
    turned = session(ref.probes[order])[0]
    yield at_most("values", "permuted rows: spread / scale", float(np.abs(turned - logits[order]).max()) / scale, bounds.difference)


def _labels(artifact: Artifact, run: Run, comparison: list[Comparison], subject: Any) -> Iterator[Check]:
    yield from label_checks(artifact, run, subject)
    found = comparison[0]
    yield at_least("labels", "agreement, %", found.agreement, _few(BOUNDS[artifact.manifest["precision"]].agreement, 100, found))


def _accuracy(comparison: list[Comparison], precision: str) -> Iterator[Check]:
    found = comparison[0]
    name = "change of top-1 in points, lower end of the paired 95 % interval"
    yield at_least("accuracy", name, found.ci_low, _few(BOUNDS[precision].ci_low, 0, found))


def _few(bound: float, perfect: float, found: Comparison) -> float:
    """The bound, or what three flips of so few pictures make: their margin was bounded before."""
    return min(bound, perfect - 100 * 3 / found.images)
