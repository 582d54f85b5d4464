"""From aligned graphs and measured tensors to the nodes at fault, in the order in which they compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from export.bisect.align import differences
from export.bisect.nodes import Graph, Op
from export.bisect.tensors import Measured

UNEXPLAINED = 1e-5  # of a tensor's scale: more than two kernels' rounding of the same node can make
SUSPECT = 2e-6  # the same for a node that is seen to differ


@dataclass(frozen=True)
class Fault:
    """One node that is not the module's, or does not compute as the module's does.

    ``kind``: changed, inserted, removed, or value (looks the same, computes otherwise). ``ours`` and
    ``theirs``: the nodes, as far as there are. ``tensor``: the first tensor of the module's graph that shows
    it, "" where none does.
    """

    kind: str
    ours: Op | None
    theirs: Op | None
    what: tuple[str, ...]
    tensor: str = ""

    @property
    def structural(self) -> bool:
        """It is at fault by what it is or where it stands, not by its weights or attributes."""
        return self.kind != "changed" or self.what[0].startswith(("is ", "reads "))


def tensor_pairs(ours: Graph, theirs: Graph, pairs: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Tensors of the module's graph to those of the file's that stand for them, in canonical order.

    In a quantised file names come first (quantisers keep them, but let a ReLU vanish into the scale of its
    input), and a tensor's value is the one behind its quantiser.
    """
    known = {tensor for op in ours.ops for tensor in op.outputs if tensor}
    named: dict[str, str] = {}
    if theirs.quantized:
        for op in theirs.ops:
            for tensor in op.outputs:
                value = theirs.served.get(tensor, tensor)
                named |= {name: value for name in (tensor, value) if name in known}
    taken = set(named.values())
    found = dict(named)
    for i, j in pairs:
        for x, y in zip(ours.ops[i].outputs, theirs.ops[j].outputs, strict=False):
            value = theirs.served.get(y, y)
            if x and y and x not in named and value not in taken:
                found[x] = value
    makers = ours.makers()
    return {x: found[x] for x in sorted(found, key=makers.__getitem__)}


class Blame:
    """What is known of both graphs, and the questions asked of it."""

    def __init__(
        self, ours: Graph, theirs: Graph, pairs: Sequence[tuple[int, int]], tensors: Mapping[str, str]
    ) -> None:
        self.ours, self.theirs, self.tensors = ours, theirs, tensors
        self.twin, self.back = dict(pairs), {j: i for i, j in pairs}
        self.named = {y: x for x, y in tensors.items()} | dict(zip(theirs.inputs, ours.inputs, strict=False))
        self.our_makers, self.their_makers = ours.makers(), theirs.makers()
        self.changed = {i: tuple(self._changed(i, j)) for i, j in pairs}

    def _changed(self, i: int, j: int) -> Iterator[str]:
        one, other = self.ours.ops[i], self.theirs.ops[j]
        yield from differences(one, other)
        for x, y in zip(one.inputs, other.inputs, strict=False):
            source = self.named.get(y)
            if x and source not in (None, x) and source not in self._behind_removed(x):
                yield f"reads {y or 'nothing'} where the module reads {x}"

    def _behind_removed(self, tensor: str) -> set[str]:
        """What a node would read if the nodes that the file lacks before it were not there."""
        index = self.our_makers.get(tensor)
        if index is None or index in self.twin:
            return set()
        before = set(self.ours.ops[index].inputs) - {""}
        return before.union(*(self._behind_removed(name) for name in before))

    def _region(self, graph: Graph, makers: Mapping[str, int], tensor: str, stops: Set[str]) -> list[int]:
        """The nodes between the compared tensors and this one, which they make; in canonical order."""
        found: set[int] = set()
        wanted = [makers[tensor]] if tensor in makers else []
        while wanted:
            index = wanted.pop()
            if index not in found:
                found.add(index)
                wanted += [
                    makers[name] for name in graph.ops[index].inputs if name in makers and name not in stops
                ]
        return sorted(found)

    def region(self, tensor: str, misfits: Set[str] = frozenset()) -> list[int]:
        """The module's nodes that make a compared tensor out of those compared before it."""
        return self._region(self.ours, self.our_makers, tensor, self.tensors.keys() - misfits - {tensor})

    def _suspects(self, tensor: str, misfits: Set[str]) -> list[tuple[int, Fault]]:
        """Nodes that are seen to differ and lie between ``tensor`` and the compared tensors before it."""
        stops = self.tensors.keys() - misfits
        values = {self.tensors[name] for name in stops}
        mine = self.region(tensor, misfits)
        other = self._region(
            self.theirs, self.their_makers, self.tensors[tensor], values - {self.tensors[tensor]}
        )
        return self._seen(mine, other, tensor)

    def _seen(self, mine: Sequence[int], other: Sequence[int], tensor: str) -> list[tuple[int, Fault]]:
        found = []
        for i in mine:
            op = self.ours.ops[i]
            if i not in self.twin:
                found.append((i, Fault("removed", op, None, ("is missing",), tensor)))
            elif self.changed[i]:
                found.append(
                    (i, Fault("changed", op, self.theirs.ops[self.twin[i]], self.changed[i], tensor))
                )
        for j in other:
            if j not in self.back:
                after = [self.back[k] for k in self._sources(j) if k in self.back]
                what = ("is not in the module",)
                found.append(
                    (max(after, default=-1), Fault("inserted", None, self.theirs.ops[j], what, tensor))
                )
        return sorted(found, key=lambda each: each[0])

    def _sources(self, j: int) -> set[int]:
        """The aligned nodes of the file that an inserted one reads, maybe through others."""
        found, wanted = set(), [j]
        while wanted:
            for name in self.theirs.ops[wanted.pop()].inputs:
                k = self.their_makers.get(name)
                if k is not None and k not in found:
                    found.add(k)
                    if k not in self.back:
                        wanted.append(k)
        return found

    def after(self, op: Op) -> Op | None:
        """The last of the module's nodes before an inserted one."""
        index = next(j for j, each in enumerate(self.theirs.ops) if each is op)
        known = [self.back[k] for k in self._sources(index) if k in self.back]
        return self.ours.ops[max(known)] if known else None

    def static(self) -> list[Fault]:
        """Every node that is seen to differ without running anything."""
        found = self._seen(range(len(self.ours.ops)), range(len(self.theirs.ops)), "")
        return [fault for _, fault in found]

    def faults(self, measured: Measured) -> list[Fault]:
        """The nodes that make a difference which their inputs do not explain."""
        found: list[Fault] = []
        blamed: set[tuple[int, int]] = set()
        for tensor in self.tensors:
            own = measured.own[tensor].relative
            if own <= SUSPECT:
                continue
            suspects = [fault for _, fault in self._suspects(tensor, measured.misfits)]
            if not suspects and own > UNEXPLAINED:
                i, j = self.our_makers[tensor], self.their_makers.get(self.tensors[tensor])
                theirs = None if j is None else self.theirs.ops[j]
                what = f"makes another result of the same inputs, {own:.2g} of its scale apart"
                what = "makes a tensor of another shape" if tensor in measured.misfits else what
                suspects = [Fault("value", self.ours.ops[i], theirs, (what,), tensor)]
            for fault in suspects:
                key = (
                    -1 if fault.ours is None else fault.ours.number,
                    -1 if fault.theirs is None else fault.theirs.number,
                )
                if key not in blamed:
                    blamed.add(key)
                    found.append(fault)
        return found
