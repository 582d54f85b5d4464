"""Are a file's numbers the run's, but for the rounding of its own format? Weights, biases and steps, one
by one.

What a file holds is compared with `export.independent.expected_weights`, from the run's weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.independent.expected_weights import Array, Exact
from export.independent.float_onnx import Constant
from export.numbers.check import Check, at_most, equal

STAGE = "arithmetic"
SINGLE = 2.0**-21  # of the terms: four roundings in fp32, as folding makes
MANTISSA = {"fp16": (10, -14), "bf16": (7, -126)}  # bits behind the point, and the smallest normal exponent
ROOM = 1.001  # of half a step: a level may be chosen by fp32 arithmetic
STEPS = 1.01  # of the step that a channel needs
INT32 = 2**31 - 1
SMALL = 16  # numbers in a tensor that may be no weight of the run: an epsilon, a sixth, an axis
# a tensor under another name belongs to the weight that is this near, as a part of its largest number
ALIKE = 0.3


@dataclass(frozen=True)
class Match:
    """A constant of the file, and the run's numbers in the file's layout; ``source`` is the first name the
    run has for them.
    """

    constant: Constant
    exact: Exact
    source: str


def matched(
    constants: Mapping[str, Constant], exact: Mapping[str, Exact]
) -> tuple[dict[str, Match], list[str]]:
    """Which of the run's tensors each constant is, and the names of those that are none of them.

    A constant is found by its name; one that the exporter has renamed or turned by the nearest numbers. A
    wrong choice hides nothing: the graph with the chosen numbers in it is compared with the
    module afterwards.
    """
    matches: dict[str, Match] = {}
    strangers = []
    first = {id(tensor): name for name, tensor in reversed(list(exact.items()))}
    for name, constant in constants.items():
        own = name.removesuffix("/heatmap").removesuffix("_quantized")
        candidates = {own: exact[own]} if own in exact else exact
        nearest = _nearest(constant, candidates, np.inf if own in exact else ALIKE)
        if nearest is not None:
            numbers_of, source = nearest
            matches[name] = Match(constant, numbers_of, first[id(exact[source])])
        elif constant.value.size > SMALL:
            strangers.append(name)
    return matches, strangers


def _nearest(constant: Constant, candidates: Mapping[str, Exact], most: float) -> tuple[Exact, str] | None:
    best: tuple[float, tuple[Exact, str]] | None = None
    scale = float(np.abs(constant.value).max(initial=0.0)) or 1.0
    for name, candidate in candidates.items():
        for exact in (candidate, candidate.transposed) if candidate.value.ndim == 2 else (candidate,):
            if exact.value.shape != constant.value.shape:
                continue
            distance = float(np.abs(exact.value - constant.value).max(initial=0.0)) / scale
            if best is None or distance < best[0]:
                best = distance, (exact, name)
    return best[1] if best is not None and not best[0] > most else None


def numbers(
    matches: Mapping[str, Match], strangers: list[str], precision: str, exact: Mapping[str, Exact]
) -> Iterator[Check]:
    """Every weight and bias against the run's, the steps of int8 against what they need, and the kinds
    of number.
    """
    yield equal(STAGE, "tensors that are none of the run's", strangers[:3], [])
    errors = {name: excess(match, precision) for name, match in matches.items()}
    worst = max(errors, key=lambda name: _nan_last(errors[name]))
    yield at_most(
        STAGE, f"error of a number / what rounding alone explains, worst at {worst}", errors[worst], 1.0
    )
    steps = {
        name: wide
        for name, match in matches.items()
        if (wide := width(match, _biases_of(match, matches, exact))) is not None
    }
    if steps:
        widest = max(steps, key=lambda name: _nan_last(steps[name]))
        yield at_most(
            STAGE, f"step of int8 weights / what their channel needs, worst at {widest}", steps[widest], STEPS
        )
    yield equal(STAGE, f"weights in {precision}", _other_kinds(matches, precision), [])


def _nan_last(value: float) -> float:
    return value if value == value else np.inf


def excess(match: Match, precision: str) -> float:
    """The largest error of a constant, as a part of what rounding alone explains."""
    apart = np.abs(match.constant.value - match.exact.value)
    return float((apart / _explained(match, precision)).max(initial=0.0))


def _explained(match: Match, precision: str) -> Array:
    """How far rounding may move each number: half a step, or half the distance of the format's neighbours.

    A half-precision file may hold a rounded number widened to fp32 again, but not of its prologue.
    """
    constant, exact = match.constant, match.exact
    single = SINGLE * exact.terms + 1e-30
    kind = precision if constant.kind == "fp32" and match.source not in ("scale", "shift") else constant.kind
    if kind in MANTISSA:
        bits, smallest = MANTISSA[kind]
        exponent = np.maximum(np.floor(np.log2(np.abs(exact.value) + 1e-300)), smallest)
        return np.asarray(2.0 ** (exponent - bits - 1) * (1 + 2.0**-8) + single)
    if constant.step is not None:
        whole = 1.0 if constant.kind == "int32" else 0.5
        return np.asarray(np.broadcast_to(whole * ROOM * constant.step, exact.value.shape) + single)
    return single


def _biases_of(match: Match, matches: Mapping[str, Match], exact: Mapping[str, Exact]) -> list[Match]:
    """The file's int32 biases with the numbers that belong to a weight, whichever of equal ones they are
    called after: peers that have layers in common have them once.
    """
    own = exact.get(match.source.removesuffix("weight") + "bias")
    if own is None or match.constant.kind != "int8":
        return []
    return [
        other
        for other in matches.values()
        if other.constant.kind == "int32" and np.array_equal(other.exact.value, own.value)
    ]


def width(match: Match, biases: Sequence[Match] = ()) -> float | None:
    """The widest step of an int8 weight as a part of what its channel needs; None for anything else.

    A channel needs its largest number within 127 steps, and each of its ``biases``, whose step is that of the
    weight times that of the layer's input, within 31 bits: a channel of small weights beside a large bias
    needs a wider step than its weights do.
    """
    constant = match.constant
    if constant.step is None or constant.kind != "int8":
        return None
    widest = []
    for largest in channels(match):
        needed = np.maximum(largest / 127, 1e-9)
        for bias in biases:
            needed = np.maximum(needed, _for_the_bias(constant.step, bias, largest))
        used = largest > 1e-6 * largest.max(initial=0.0)
        widest.append(float(np.where(used, constant.step / needed, 0.0).max(initial=0.0)))
    return min(widest)


def _for_the_bias(step: Array, bias: Match, largest: Array) -> Array:
    """The smallest step, by output channel as ``largest`` is, with which the run's bias fits into int32."""
    if bias.constant.step is None or bias.exact.value.size != largest.size:
        return np.zeros_like(largest)
    steps = np.broadcast_to(step, largest.shape)
    inputs = np.median(
        np.broadcast_to(bias.constant.step, bias.exact.value.shape).reshape(steps.shape) / steps
    )
    return np.asarray(np.abs(bias.exact.value).reshape(largest.shape) / (inputs * INT32))


def channels(match: Match) -> list[Array]:
    """The largest number of each output channel, shaped to be divided by; of a matrix by either axis, its
    own first.

    Channels come from the run's tensor: a file that has one step for a whole weight has lost theirs.
    """
    exact, step = np.abs(match.exact.value), match.constant.step
    if exact.ndim < 2:
        return [exact.max(keepdims=True, initial=0.0)]
    varying = [axis for axis, count in enumerate(getattr(step, "shape", ())) if count > 1]
    own = varying if len(varying) == 1 and exact.ndim == 2 else [0] if exact.ndim > 2 else [0, 1]
    return [exact.max(axis=tuple(i for i in range(exact.ndim) if i != axis), keepdims=True) for axis in own]


def _other_kinds(matches: Mapping[str, Match], precision: str) -> list[str]:
    """Layers' weights that are nowhere in the precision, and a prologue that is not fp32.

    A heat map may have its own in fp32.
    """
    kinds: dict[str, set[str]] = {}
    for match in matches.values():
        if match.source in ("scale", "shift") or (
            match.constant.value.ndim >= 2 and match.source.endswith(".weight")
        ):
            kinds.setdefault(match.source, set()).add(match.constant.kind)
    return [
        f"{source} in {' and '.join(sorted(there))}"
        for source, there in kinds.items()
        if (there != {"fp32"} if source in ("scale", "shift") else precision not in there)
    ][:3]
