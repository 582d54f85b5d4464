"""Two ONNX graphs side by side: which node of one is which of the other, and what can be seen to differ
without running.

A file under test may have other names, an inserted, a removed or an exchanged node, other weights. So nodes
are aligned by what they are (kind, shapes and values of constants, attributes, name, in this order of trust)
along one canonical topological order, by the alignment of least cost (Needleman-Wunsch).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bisect.nodes import Constant, Graph, Op


def _features(ops: Sequence[Op], book: dict[Any, int]) -> NDArray[np.int64]:
    """One row per node: numbers that stand for kind, constants' shapes, constants' values (0: none),
    attributes, name.
    """

    def number(*key: Any) -> int:
        return book.setdefault(key, len(book) + 1)

    rows = []
    for op in ops:
        parts = sorted(op.constants.items())
        shapes = number("shapes", tuple((place, c.array.shape) for place, c in parts))
        values = number("values", tuple((place, c.array.tobytes()) for place, c in parts)) if parts else 0
        rows.append(
            (
                number(op.kind),
                shapes,
                values,
                number("attributes", repr(sorted(op.attributes.items()))),
                number("name", op.name),
            )
        )
    return np.array(rows, np.int64).reshape(-1, 5)


def pair(a: Graph, b: Graph) -> list[tuple[int, int]]:
    """Indices (in ``a.ops``, in ``b.ops``) of nodes that stand for each other; their kinds may differ."""
    book: dict[Any, int] = {}
    left, right = _features(a.ops, book), _features(b.ops, book)
    low = 0
    while low < min(len(left), len(right)) and (left[low] == right[low]).all():
        low += 1
    high = 0
    while high < min(len(left), len(right)) - low and (left[-1 - high] == right[-1 - high]).all():
        high += 1
    pairs = [(i, i) for i in range(low)] + [(len(left) - 1 - i, len(right) - 1 - i) for i in range(high)]
    middle = _aligned(_score(left[low : len(left) - high], right[low : len(right) - high]))
    pairs += [(low + i, low + j) for i, j in middle]
    twin = dict(pairs)
    # What an exchanged branch moved to another place: the same constants, or the same kind under the same
    # name.
    for i, free in _free(twin, len(left), len(right)):
        alike = [j for j in free if left[i, 0] == right[j, 0]]
        same = [j for j in alike if (left[i, 2] and left[i, 2] == right[j, 2]) or left[i, 4] == right[j, 4]]
        if same:
            twin[i] = min(same)
    _follow(a, b, left, right, twin)
    alone = [
        sorted({*range(n)} - {*taken}) for n, taken in ((len(left), twin.keys()), (len(right), twin.values()))
    ]
    rest = [(alone[0][i], alone[1][j]) for i, j in _aligned(_score(left[alone[0]], right[alone[1]]))]
    return sorted([*twin.items(), *((i, j) for i, j in rest if left[i, 0] == right[j, 0])])


def _free(twin: Mapping[int, int], n: int, m: int) -> Iterator[tuple[int, set[int]]]:
    """Each unpaired node of the first graph, with those of the second that are unpaired by then."""
    for i in range(n):
        if i not in twin:
            yield i, {*range(m)} - {*twin.values()}


def _follow(
    a: Graph, b: Graph, left: NDArray[np.int64], right: NDArray[np.int64], twin: dict[int, int]
) -> None:
    """Where a node's twin reads other tensors than its inputs' twins, and a like node reads just those: take
    that one.
    """
    maker, owner = a.makers(), {j: i for i, j in twin.items()}
    readers: dict[tuple[int, tuple[str, ...]], int] = {}
    for j, op in enumerate(b.ops):
        readers.setdefault((int(right[j, 0]), op.inputs), j)
    sources = dict(zip(a.inputs, b.inputs, strict=False)) | {"": ""}
    for i, op in enumerate(a.ops):
        above = {name: maker[name] for name in op.inputs if name in maker}
        if any(k not in twin for k in above.values()):
            continue
        known = {
            x: y
            for k in above.values()
            for x, y in zip(a.ops[k].outputs, b.ops[twin[k]].outputs, strict=False)
        }
        wanted = tuple((sources | known).get(name, "?") for name in op.inputs)
        like = readers.get((int(left[i, 0]), wanted))
        if (
            like is None
            or twin.get(i) == like
            or left[i, 1] != right[like, 1]
            or (i in twin and b.ops[twin[i]].inputs == wanted)
        ):
            continue
        twin.pop(owner.pop(like, -1), None)
        owner.pop(twin.get(i, -1), None)
        owner[like], twin[i] = i, like


def _score(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    kind, shapes, values, attributes, name = (left[:, None, k] == right[None, :, k] for k in range(5))
    values &= left[:, None, 2] > 0
    alike = 2.0 + shapes + 3.0 * values + attributes + name
    return np.where(kind, np.where(shapes, alike, alike - 1.5), np.where(name, 1.0, -1.0))


def _aligned(score: NDArray[np.float64], gap: float = -1.0) -> list[tuple[int, int]]:
    """The monotone pairing of rows and columns with the largest sum; what stays alone costs ``gap``."""
    n, m = score.shape
    best = np.zeros((n + 1, m + 1))
    best[:, 0], best[0, :] = gap * np.arange(n + 1), gap * np.arange(m + 1)
    for i in range(1, n + 1):
        above = np.maximum(best[i - 1, :-1] + score[i - 1], best[i - 1, 1:] + gap)
        line = best[i].tolist()
        for j, value in enumerate(above.tolist()):
            line[j + 1] = max(value, line[j] + gap)
        best[i] = line
    found = []
    while n and m:
        if best[n, m] == best[n - 1, m - 1] + score[n - 1, m - 1]:
            n, m = n - 1, m - 1
            found.append((n, m))
        elif best[n, m] == best[n - 1, m] + gap:
            n -= 1
        else:
            m -= 1
    return found


def differences(ours: Op, theirs: Op) -> Iterator[str]:
    """What a node of the file (``theirs``) has that the module's (``ours``) has not: kind, attributes,
    constants, inputs.
    """
    if ours.kind != theirs.kind:
        yield f"is {theirs.kind} where the module has {ours.kind}"
        return
    for name in sorted({*ours.attributes, *theirs.attributes}):
        a, b = ours.attributes.get(name), theirs.attributes.get(name)
        if a != b:
            yield f"attribute {name} is {_short(b)}, the module has {_short(a)}"
    for place in sorted({*ours.constants, *theirs.constants}):
        one, other = ours.constants.get(place), theirs.constants.get(place)
        if one is None:
            yield f"input {place} is the initializer {other and other.name}, which the module has not"
        elif other is None:
            reads = place < len(theirs.inputs) and theirs.inputs[place]
            yield (
                f"input {place} is {reads if reads else 'missing'} where the module has the initializer "
                f"{one.name}"
            )
        else:
            yield from _constant(ours, place, one.array, other)
    count = [sum(bool(name) for name in op.inputs) + len(op.constants) for op in (ours, theirs)]
    if count[0] != count[1] and ours.constants.keys() == theirs.constants.keys():
        yield f"has {count[1]} inputs where the module has {count[0]}"


def _constant(op: Op, place: int, ours: NDArray[Any], theirs: Constant) -> Iterator[str]:
    array, name = theirs.array, f"initializer {theirs.name}"
    if ours.shape != array.shape:
        yield f"{name} has shape {list(array.shape)}, the module's has {list(ours.shape)}"
        return
    if ours.dtype != array.dtype:
        yield f"{name} is {array.dtype}, the module's is {ours.dtype}"
    a, b = ours.astype(np.float64), array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    if not (apart != 0).any():
        return
    where = np.unravel_index(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).argmax(), apart.shape)
    by = f"by {apart[where]:.2g}" if np.isfinite(apart[where]) else f"where it is {array[where]}"
    transposed = op.attributes.get("transB")
    axis = {"Conv": 0, "Gemm": 0 if transposed or place == 2 else 1, "MatMul": array.ndim - 1}.get(op.kind)
    if axis is None or not array.ndim:
        changed = int((apart != 0).sum())
        yield f"{name} differs in {changed} of {apart.size} values, most at {[int(i) for i in where]}, {by}"
        return
    axis = min(axis, array.ndim - 1)
    channels = np.flatnonzero((apart != 0).any(tuple(i for i in range(apart.ndim) if i != axis)))
    if len(channels) == 1:
        yield f"{name} differs in output channel {channels[0]} {by}"
    else:
        yield (
            f"{name} differs in {len(channels)} of {array.shape[axis]} output channels, most in channel "
            f"{where[axis]}, {by}"
        )


def _short(value: Any) -> str:
    text = "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
