"""The parity gate: shipped bytes against the run's fp32 module, in a fresh process, stage by stage.

A stage is the name of what broke: file, input, names, shapes, dtypes, temperature, calibration (int8), finite, values, labels,
accuracy, origin. All checks of a stage are made; after a stage with a failed check, later stages are not tried. NaN passes nothing:
every comparison is written so that it is false for NaN.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from export.accuracy import accuracy, agreement, anchor, told
from export.bounds import BOUNDS, FURTHEST, PROVEN_DIFFERENCE, PROVEN_SYSTEMATIC, SYSTEMATIC, TWIN, Bounds
from export.contract import (
    Check,
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
from export.custody import chain as custody
from export.graph import HALVES
from export.half import widen
from export.heatmap import heat_alike, heat_checks, heat_outputs
from export.members import Member, Once, Part, documents, each, main_checks, parts_of
from export.origin import COMPARED, calibration_checks, origin_checks, other_versions
from export.probabilities import output_checks, temperature_checks
from export.probes import batch_sizes
from export.reference import Reference, Tick, answers_of
from export.statistics import Comparison, compare, log_softmax, permutation
from lfdeploy.artifact import Artifact, outputs_of
from lfdeploy.backends import BACKENDS, Session, Source, chosen
from lfdeploy.backends.base import Floats, in_chunks, named_in_chunks
from lfdeploy.confidence import KEY, temperature
from lfdeploy.console import say
from lfdeploy.devices import pick
from lfdeploy.errors import LfdeployError
from lfdeploy.models.explain import HEATMAP
from lfdeploy.models.together import member_outputs
from lfdeploy.run import Run

NO_BF16 = "onnxruntime's CPU provider has no bf16; its numbers are those of the same file widened to fp32"


@dataclass(frozen=True)
class Report:
    """A verdict with its checks. ``reason`` is one sentence for anything but a pass; ``logits`` the subject's on the test pictures.

    ``members``: statistics of further outputs, by target. ``chain``: the steps of `export.custody`, where the file could be run.
    """

    verdict: str
    reason: str
    subject: str
    checks: tuple[Check, ...]
    comparison: dict[str, Any] | None
    logits: Floats | None
    members: dict[str, Any] = field(default_factory=dict)
    chain: tuple[dict[str, Any], ...] = ()

    def document(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {
            "verdict": self.verdict, "reason": self.reason, "subject": self.subject,
            "checks": [asdict(check) for check in self.checks], "statistics": self.comparison, "chain": list(self.chain),
        } | ({"members": self.members} if self.members else {})  # fmt: skip


Stage = Callable[[], Iterator[Check]]


def judge(
    artifact: Artifact, run: Run, ref: Reference, device: str = "auto", tick: Tick = lambda count: None, asked: str = "auto"
) -> Report:
    """Every stage for one artifact on this machine; an engine that cannot run here is judged by its source ONNX."""
    manifest = artifact.manifest
    precision = str(manifest["precision"])
    backend = chosen(manifest, asked)
    hindrance = BACKENDS[backend].cannot_run()
    source = artifact.path / "source.onnx"
    subject, name = artifact.file, backend
    if hindrance and source.exists():
        subject, name = source, "onnxruntime"
    said = f"{name} on the published file" if subject == artifact.file else "onnxruntime on the ONNX file it was built from"
    widened = precision == "bf16" and name == "onnxruntime" and pick(device, name) == "cpu"
    if widened:
        hindrance = hindrance or NO_BF16
        said = f"onnxruntime on a copy of the {'published' if subject == artifact.file else 'source'} file, widened from bf16 to fp32"
    checks: list[Check] = []
    parts = parts_of(ref)
    main = parts[0]
    session: list[Session] = []

    def opened() -> Session:
        if not session:
            with tempfile.TemporaryDirectory() as folder:
                file = widen(subject, Path(folder) / "widened.onnx") if widened else subject
                told = manifest | {"precision": "fp32"} if widened else manifest
                found = BACKENDS[name].open(Source(file, told, run), device)
                session.append(Once(found) if parts[1:] else found)
        return session[0]

    stages: dict[str, Stage] = {"file": lambda: file_checks(artifact, run), "input": lambda: input_checks(artifact, run)}
    runnable = widened or not (hindrance and subject == artifact.file)
    outputs = outputs_of(len(manifest["labels"])) + member_outputs(str(manifest["target"]), run.spec) + heat_outputs(run, manifest)
    stages["names"] = lambda: chain(main_checks(manifest, run), name_checks(subject, outputs))
    stages["shapes"] = lambda: shape_checks(subject, manifest, outputs)
    stages["dtypes"] = lambda: dtype_checks(subject, outputs)
    same_data = ref.data.fingerprint == run.spec["data_fingerprint"]
    graph = next((file for file in (subject, source) if file.suffix in COMPARED and file.exists()), None)
    origin = runnable and graph is not None and (same_data or precision != "int8")
    if origin and other_versions(manifest):
        say(f"The file is not made again for comparison: other versions here of {', '.join(other_versions(manifest))}.")
        origin = False
    proven = origin and graph == subject
    if KEY in manifest:
        stages["temperature"] = lambda: temperature_checks(manifest, main.ref, same_data)
    if precision == "int8":
        stages["calibration"] = lambda: calibration_checks(manifest, ref.data, same_data)
    if runnable:
        stages.update(
            finite=lambda: each(parts, lambda part: _finite(part.of(opened()), artifact, part.ref)),
            values=lambda: _all_values(opened(), artifact, parts, tick, proven),
            labels=lambda: chain(label_checks(artifact, run, subject), each(parts, lambda part: agreement(part.comparison, precision))),
            accuracy=lambda: chain(
                each(parts, lambda part: anchor(part.ref, same_data)),
                each(parts, lambda part: accuracy(part.comparison, precision)),
                told(manifest, main.comparison[0], precision, same_data),
            ),
        )
    else:
        stages["labels"] = lambda: label_checks(artifact, run, subject)
    if origin and graph:
        stages["origin"] = lambda: origin_checks(graph, manifest, ref.data, ref.classifier)
    for stage, make in stages.items():
        try:
            checks += make()
        except (LfdeployError, ValueError, KeyError, TypeError, RuntimeError) as error:
            checks.append(Check(stage, "can be examined", str(error).splitlines()[0][:300], "no error", False))
        failed = [check for check in checks if not check.passed]
        if failed:
            worst = failed[0]
            verdict, reason = "fail", f"stage {worst.stage}: {worst.name} is {shown(worst.value)}, bound {shown(worst.bound)}"
            break
    else:
        verdict, reason = ("unverified", hindrance) if hindrance else ("pass", "")
    found = main.comparison[0].document() if main.comparison else None
    if not main.answers:
        return Report(verdict, reason, said, tuple(checks), found, None, documents(parts))
    links = custody(artifact, ref, session[0], same_data=same_data, runs_file=subject == artifact.file, hindrance=hindrance)
    return Report(verdict, reason, said, tuple(checks), found, main.answers[0], documents(parts), tuple(links))


def _finite(session: Session, artifact: Artifact, ref: Reference) -> Iterator[Check]:
    most = int(artifact.manifest["batch"]["max"])
    logits, probabilities = in_chunks(session, ref.probes, most)
    yield equal("finite", "non-finite outputs on probes", int((~np.isfinite(logits)).sum() + (~np.isfinite(probabilities)).sum()), 0)
    precision = artifact.manifest["precision"]
    if precision in HALVES:
        yield equal("finite", f"non-finite logits in true {precision} arithmetic", ref.half(precision).overflows, 0)
    if precision == "fp16":
        layer, reach = ref.largest_activation
        yield at_most("finite", f"largest activation, at {layer} (else: --precision bf16)", reach, float(np.finfo(np.float16).max))


def _all_values(session: Session, artifact: Artifact, parts: list[Part], tick: Tick, proven: bool) -> Iterator[Check]:
    found = answers_of(session, parts[0].ref.images, int(artifact.manifest["batch"]["max"]), tick)
    for part in parts:
        part.answers.append(found[part.output])
    yield from each(parts, lambda part: _values(part.of(session), artifact, part.ref, part.comparison, part.answers[0], proven))
    yield _softmax("test pictures: probabilities", artifact.manifest, found)


def _softmax(what: str, manifest: dict[str, Any], found: Mapping[str, Floats]) -> Check:
    """That the probabilities are those of the logits, and not NaN."""
    t = temperature(manifest)
    wanted = np.exp(log_softmax(found["logits"] / np.float32(t or 1)))
    apart = float(np.abs(wanted - found["probabilities"]).max())
    return at_most("values", f"{what} against softmax(logits{' / T' if t else ''})", apart, 1e-5)


def _values(
    session: Session, artifact: Artifact, ref: Reference, comparison: list[Comparison], logits: Floats, proven: bool
) -> Iterator[Check]:
    manifest = artifact.manifest
    precision = manifest["precision"]
    bounds, most = BOUNDS[precision], int(manifest["batch"]["max"])
    if precision in FURTHEST:
        bounds = replace(bounds, difference=min(FURTHEST[precision], max(bounds.difference, 2 * ref.half(precision).difference)))
    if proven and precision == "int8":
        bounds = replace(bounds, difference=PROVEN_DIFFERENCE)
    bad = int((~np.isfinite(logits)).sum())
    if bad:
        yield Check("finite", "non-finite logits on test pictures", bad, 0, False)
        return
    found = compare(ref.logits, logits, ref.images.labels)
    comparison.append(found)
    swapped = permutation(ref.logits, logits, BOUNDS[precision].difference)
    if swapped:
        names = [f"{manifest['labels'][i]} at {manifest['labels'][j]}" for i, j in swapped[:3]]
        yield Check("labels", "order of the outputs", f"class {', '.join(names)}", "the run's order", False)
        return
    yield at_most("values", "largest difference / scale", found.max_difference, bounds.difference)
    yield at_most("values", "KL, mean", found.kl_mean, bounds.kl_mean)
    yield at_most("values", "KL, largest", found.kl_max, bounds.kl_max)
    yield at_most("values", "margin of flipped labels / scale", found.flip_margin, bounds.flip_margin)
    if precision == "int8":
        systematic = PROVEN_SYSTEMATIC if proven else SYSTEMATIC
        yield at_most("values", "slope against the reference, from 1", abs(found.slope - 1), systematic)
        yield at_most("values", "mean shift of a class / scale", found.bias, systematic)
    yield from _probes(session, manifest, ref, bounds)
    if precision in HALVES and session.device == "cpu":
        half, probes = ref.half(precision), in_chunks(session, ref.probes, most)[0]
        same = np.concatenate([logits[: len(half.twin) - len(probes)], probes])
        apart = float((np.abs(half.twin - same) / half.scale).max())
        yield at_most("values", f"difference / scale from the module with {precision} weights", apart, TWIN)


def _probes(session: Session, manifest: dict[str, Any], ref: Reference, bounds: Bounds) -> Iterator[Check]:
    """Probe pictures, every batch size, equal rows, permuted rows, and that probabilities are the logits' softmax."""
    opt, most = int(manifest["batch"]["opt"]), int(manifest["batch"]["max"])
    alone = named_in_chunks(session, ref.probes, most)
    logits = alone["logits"]
    found = compare(ref.probe_logits, logits, ref.probe_logits.argmax(1))
    apart = np.abs(logits - ref.probe_logits).max() / max(found.scale, float(np.abs(ref.logits).max()))
    if manifest["precision"] != "int8":  # int8's ranges are those of pictures; probes go beyond them
        yield at_most("values", "probes: largest difference / scale", apart, bounds.difference)
        yield at_most("values", "probes: margin of flipped labels / scale", found.flip_margin, bounds.flip_margin)
    if not isinstance(session, Member):  # a member has logits alone
        yield _softmax("probes: probabilities", manifest, alone)
        yield from output_checks(session, manifest, ref)
        yield from heat_checks(session, manifest, ref)
    scale, count = found.scale, len(ref.probes)
    by_size: list[list[Check]] = []
    for size in batch_sizes(opt, most):
        rows = np.resize(np.arange(count), size)
        answers = session.named(ref.probes[rows])
        spread = float(np.abs(answers["logits"] - logits[rows]).max()) / scale
        by_size.append([at_most("values", "spread / scale", spread, bounds.spread)])
        if not isinstance(session, Member):
            by_size[-1] += [_softmax("probabilities", manifest, answers)]
        if HEATMAP in answers:
            by_size[-1] += heat_alike(answers[HEATMAP], alone[HEATMAP][rows], manifest)
    for checks in zip(*by_size, strict=True):  # of all sizes the worst
        worst = int(np.argmax([check.value for check in checks]))
        name = f"{len(checks)} batch sizes, worst {batch_sizes(opt, most)[worst]}: {checks[worst].name}"
        yield replace(checks[worst], name=name)
    same = session(np.repeat(ref.probes[8:9], most, axis=0))[0]
    yield at_most("values", "equal rows: spread / scale", float(np.abs(same - same[0]).max()) / scale, bounds.spread)
    order = np.random.default_rng(7).permutation(min(most, count))
    turned = session(ref.probes[order])[0]
    yield at_most("values", "permuted rows: spread / scale", float(np.abs(turned - logits[order]).max()) / scale, bounds.spread)
