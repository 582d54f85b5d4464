"""Stages finite and values: what a file answers, on test pictures and on probes, at every batch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from export.independent.evidence import Evidence, run
from export.independent.halves import KINDS
from export.numbers.check import Check, at_most, equal
from export.numbers.statistics import compare, log_softmax, permutation
from export.parity.bounds import BOUNDS, Bounds, half_bounds, int8_bounds, systematic, twin_bound
from export.parity.heatmap import heat_alike, heat_checks
from export.parity.members import Member, Part, each
from export.parity.probabilities import output_checks
from export.parity.probes import batch_sizes
from export.parity.reference import Reference, Tick, answers_of
from lfdeploy.artifact import Artifact
from lfdeploy.backends import Session
from lfdeploy.backends.base import Floats, in_chunks, named_in_chunks
from lfdeploy.confidence import temperature
from lfdeploy.models.explain import HEATMAP

FURTHEST_OFF = 16  # pictures


def finite_checks(session: Session, artifact: Artifact, ref: Reference) -> Iterator[Check]:
    """Stage finite: probes, and the range of half precision."""
    most = int(artifact.manifest["batch"]["max"])
    logits, probabilities = in_chunks(session, ref.probes, most)
    count = int((~np.isfinite(logits)).sum() + (~np.isfinite(probabilities)).sum())
    yield equal("finite", "non-finite outputs on probes", count, 0)
    precision = artifact.manifest["precision"]
    if precision in KINDS:
        name = f"non-finite logits where every layer is rounded to {precision}"
        yield equal("finite", name, ref.nature(precision).overflows, 0)
    if precision == "fp16":
        layer, reach = ref.largest_activation
        name = f"largest activation, at {layer} (else: --precision bf16)"
        yield at_most("finite", name, reach, float(np.finfo(np.float16).max))


def value_checks(
    session: Session, artifact: Artifact, parts: list[Part], tick: Tick, evidence: Evidence | None
) -> Iterator[Check]:
    """Stage values, of every output; ``evidence`` gives int8 its bounds, None where
    the file cannot be read.
    """
    answers = answers_of(session, parts[0].ref.images, int(artifact.manifest["batch"]["max"]), tick)
    for part in parts:
        part.answers.append(answers[part.output])
    yield from each(parts, lambda part: _values(session, artifact, part, evidence))
    yield _softmax("test pictures: probabilities", artifact.manifest, answers)


def _softmax(what: str, manifest: dict[str, Any], answers: Mapping[str, Floats]) -> Check:
    """That the probabilities are those of the logits, and not NaN."""
    t = temperature(manifest)
    reference = np.exp(log_softmax(answers["logits"] / np.float32(t or 1)))
    apart = float(np.abs(reference - answers["probabilities"]).max())
    return at_most("values", f"{what} against softmax(logits{' / T' if t else ''})", apart, 1e-5)


def _bounds(precision: str, part: Part, evidence: Evidence | None) -> Bounds:
    if precision in KINDS:
        return half_bounds(precision, part.ref.nature(precision).difference)
    if precision == "int8" and evidence is not None:
        return int8_bounds(evidence.predicted[part.output], _furthest(part, evidence), len(part.ref.logits))
    return BOUNDS[precision]


def _furthest(part: Part, evidence: Evidence) -> tuple[float, float]:
    """The largest difference / scale and the largest KL that the file's own ranges explain, where it is
    furthest off.

    Some picture of many goes beyond every range; that the ranges are right is a check of its own.
    """
    reference, subject = part.ref.logits, part.answers[0]
    known = log_softmax(reference)
    divergence = (np.exp(known) * (known - log_softmax(subject))).sum(1)
    apart = np.abs(subject - reference).max(1)
    rows = np.unique(
        np.concatenate([np.argsort(-apart)[:FURTHEST_OFF], np.argsort(-divergence)[:FURTHEST_OFF]])
    )
    before, after = evidence.within_ranges(np.ascontiguousarray(part.ref.images.images[rows]))
    found = compare(before[part.output], after[part.output], part.ref.images.labels[rows])
    return found.max_difference * found.scale / (float(np.abs(reference).max()) or 1.0), found.kl_max


def _values(session: Session, artifact: Artifact, part: Part, evidence: Evidence | None) -> Iterator[Check]:
    manifest, ref, logits = artifact.manifest, part.ref, part.answers[0]
    precision = str(manifest["precision"])
    bad = int((~np.isfinite(logits)).sum())
    if bad:
        yield Check("finite", "non-finite logits on test pictures", bad, 0, False)
        return
    found = compare(ref.logits, logits, ref.images.labels)
    part.comparison.append(found)
    swapped = permutation(ref.logits, logits, BOUNDS[precision].difference)
    if swapped:
        names = [f"{manifest['labels'][i]} at {manifest['labels'][j]}" for i, j in swapped[:3]]
        yield Check("labels", "order of the outputs", f"class {', '.join(names)}", "the run's order", False)
        return
    bounds = _bounds(precision, part, evidence)
    part.bounds.append(bounds)
    yield at_most("values", "largest difference / scale", found.max_difference, bounds.difference)
    yield at_most("values", "KL, mean", found.kl_mean, bounds.kl_mean)
    yield at_most("values", "KL, largest", found.kl_max, bounds.kl_max)
    yield at_most("values", "margin of flipped labels / scale", found.flip_margin, bounds.flip_margin)
    if precision == "int8" and evidence is not None:
        slope, bias = systematic(evidence.predicted[part.output], found.images)
        yield at_most("values", "slope against the reference, from 1", abs(found.slope - 1), slope)
        yield at_most("values", "mean shift of a class / scale", found.bias, bias)
    yield from _probes(part.of(session), manifest, ref, bounds)
    if precision in KINDS and session.device == "cpu" and evidence is not None:
        yield _twin(part.of(session), manifest, part, evidence)


def _twin(session: Session, manifest: dict[str, Any], part: Part, evidence: Evidence) -> Check:
    """Half precision on a CPU: the file's graph in fp32 with the run's numbers rounded by ourselves, but for
    the activations that the runtime rounds.
    """
    pictures = evidence.truth.pictures
    twin = run(evidence.halved, np.concatenate([pictures, part.ref.probes]))[part.output]
    probes = in_chunks(session, part.ref.probes, int(manifest["batch"]["max"]))[0]
    subject = np.concatenate([part.answers[0][: len(pictures)], probes])
    apart = float((np.abs(twin - subject) / part.ref.scale_of(len(pictures))).max())
    precision = str(manifest["precision"])
    bound = twin_bound(precision, part.ref.nature(precision).activations)
    return at_most("values", f"difference / scale from the run's {precision} weights in fp32", apart, bound)


def _probes(session: Session, manifest: dict[str, Any], ref: Reference, bounds: Bounds) -> Iterator[Check]:
    """Probe pictures, every batch size, equal rows, permuted rows, and that probabilities are the
    logits' softmax.
    """
    most = int(manifest["batch"]["max"])
    alone = named_in_chunks(session, ref.probes, most)
    logits = alone["logits"]
    found = compare(ref.probe_logits, logits, ref.probe_logits.argmax(1))
    apart = np.abs(logits - ref.probe_logits).max() / max(found.scale, float(np.abs(ref.logits).max()))
    if manifest["precision"] != "int8":  # int8's ranges are those of pictures; probes go beyond them
        yield at_most("values", "probes: largest difference / scale", apart, bounds.difference)
        yield at_most(
            "values", "probes: margin of flipped labels / scale", found.flip_margin, bounds.flip_margin
        )
    if not isinstance(session, Member):  # a member has logits alone
        yield _softmax("probes: probabilities", manifest, alone)
        yield from output_checks(session, manifest, ref)
        yield from heat_checks(session, manifest, ref)
    yield from _batches(session, manifest, ref, alone, found.scale, bounds)
    same = session(np.repeat(ref.probes[8:9], most, axis=0))[0]
    spread = float(np.abs(same - same[0]).max()) / found.scale
    yield at_most("values", "equal rows: spread / scale", spread, bounds.spread)
    order = np.random.default_rng(7).permutation(min(most, len(ref.probes)))
    turned = session(ref.probes[order])[0]
    spread = float(np.abs(turned - logits[order]).max()) / found.scale
    yield at_most("values", "permuted rows: spread / scale", spread, bounds.spread)


def _batches(
    session: Session,
    manifest: dict[str, Any],
    ref: Reference,
    alone: dict[str, Floats],
    scale: float,
    bounds: Bounds,
) -> Iterator[Check]:
    """A picture's answer does not depend on how many are asked for with it: of all batch sizes the worst."""
    sizes = batch_sizes(int(manifest["batch"]["opt"]), int(manifest["batch"]["max"]))
    by_size: list[list[Check]] = []
    for size in sizes:
        rows = np.resize(np.arange(len(ref.probes)), size)
        answers = session.named(ref.probes[rows])
        spread = float(np.abs(answers["logits"] - alone["logits"][rows]).max()) / scale
        by_size.append([at_most("values", "spread / scale", spread, bounds.spread)])
        if not isinstance(session, Member):
            by_size[-1] += [_softmax("probabilities", manifest, answers)]
        if HEATMAP in answers:
            by_size[-1] += heat_alike(answers[HEATMAP], alone[HEATMAP][rows], manifest)
    for checks in zip(*by_size, strict=True):
        worst = int(np.argmax([check.value for check in checks]))
        yield replace(
            checks[worst], name=f"{len(checks)} batch sizes, worst {sizes[worst]}: {checks[worst].name}"
        )
