"""Which pieces of which parts may run at once, and which of them goes first.

A thread takes the piece with the longest way still before it (Graham 1969). Who takes what, and when, changes
no number: every piece runs in one thread, and sums have an order of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from threading import Condition

from training.parts import Part
from training.parts.part import Link

#: for each piece the numbers of others
Graph = Sequence[Collection[int]]


@dataclass(frozen=True)
class Plan:
    """Pieces, each after those that it reads.

    ``before`` and ``after``: whom each reads, and who reads it. ``readers``: by a tensor's name who reads it,
    in the order in which their gradients are summed. ``forward`` and ``backward``: the least seconds that
    each took so far.
    """

    links: list[Link] = field(default_factory=list)
    before: list[set[int]] = field(default_factory=list)
    after: list[set[int]] = field(default_factory=list)
    readers: dict[str, list[int]] = field(default_factory=dict)
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    def add(self, link: Link, before: set[int]) -> None:
        """One piece more, which reads earlier ones."""
        for number in before:
            self.after[number].add(len(self.links))
        self.links.append(link)
        self.before.append(before)
        self.after.append(set())
        self.forward.append(0.0)
        self.backward.append(0.0)


def plan_of(waves: Sequence[Sequence[Part]], given: Collection[str], whole: bool = False) -> Plan:
    """Of all parts that can run on the given tensors, and do not give these; with ``whole`` each part is one
    piece.
    """
    plan, giver = Plan(), dict.fromkeys(given, -1)
    ranks: list[tuple[int, int]] = []  # gradients come from the last wave first, within one in order

    def source(name: str) -> int | None:
        return giver.get(name, giver.get(name.split(".")[0]))

    for depth, wave in enumerate(waves):
        for part in wave:
            if any(source(name) is None for name in part.reads) or set(part.gives) <= set(given):
                continue
            for link in [Link(part.reads, part.gives, part)] if whole else part.links():
                found = {source(name) for name in link.reads} - {-1}
                plan.add(link, {number for number in found if number is not None})
                ranks.append((-depth, len(ranks)))
                giver.update(dict.fromkeys((*link.gives, *part.gives), len(ranks) - 1))
    for number in sorted(range(len(ranks)), key=ranks.__getitem__):
        for name in dict.fromkeys(plan.links[number].reads):
            plan.readers.setdefault(name, []).append(number)
    return plan


def ways(seconds: Sequence[float], follows: Graph, backwards: bool = False) -> list[float]:
    """For each piece how long the longest chain of pieces is that begins with it."""
    found = list(seconds)
    for number in range(len(seconds)) if backwards else reversed(range(len(seconds))):
        found[number] += max((found[other] for other in follows[number]), default=0.0)
    return found


def in_order(waits_for: Graph) -> Iterable[int]:
    """The pieces one after the other: as they are numbered, or the last first where earlier ones wait."""
    numbers = range(len(waits_for))
    return (
        reversed(numbers) if any(max(found, default=-1) > n for n, found in enumerate(waits_for)) else numbers
    )


class _Course:
    """Who may begin, who is through, and what went wrong, for all threads of one run."""

    def __init__(self, waits_for: Graph, follows: Graph, way: Sequence[float]) -> None:
        self.follows, self.way = follows, way
        self.waiting = [len(others) for others in waits_for]
        self.ready = sorted((-way[number], number) for number, count in enumerate(self.waiting) if not count)
        self.left, self.under_way, self.changed = len(self.waiting), 0, Condition()
        self.failed: list[BaseException] = []

    def next_piece(self) -> int | None:
        """The piece that is ready and has the longest way; waits for one. None where there are no more."""
        with self.changed:
            while not self.ready and self.left and not self.failed:
                self.changed.wait()
            if not self.ready or self.failed:
                return None
            self.under_way += 1
            return heappop(self.ready)[1]

    def end(self, number: int) -> None:
        """It is through: others may begin."""
        with self.changed:
            self.left -= 1
            self.under_way -= 1
            for other in self.follows[number]:
                self.waiting[other] -= 1
                if not self.waiting[other]:
                    heappush(self.ready, (-self.way[other], other))
            self.changed.notify_all()

    def fail(self, error: BaseException, ended: int = 0) -> None:
        """Nothing more begins; ``ended`` pieces did so by it."""
        with self.changed:
            self.failed.append(error)
            self.under_way -= ended
            self.changed.notify_all()

    def settle(self) -> None:
        """Wait until nothing is under way."""
        with self.changed:
            while self.under_way:
                self.changed.wait()


def run_all(
    pool: Executor,
    threads: int,
    modes: Callable[[], AbstractContextManager[None]],
    work: Callable[[int], None],
    waits_for: Graph,
    follows: Graph,
    way: Sequence[float],
) -> None:
    """Work of every piece, each after those that it waits for, the longest way first, by threads that enter
    ``modes``. Raises what the first piece that fails raises, and a Ctrl-C, when nothing is under way any
    more.
    """
    course = _Course(waits_for, follows, way)

    def take() -> None:
        with modes():
            while (number := course.next_piece()) is not None:
                try:
                    work(number)
                except BaseException as error:
                    course.fail(error, 1)
                    return
                course.end(number)

    try:
        for done in [pool.submit(take) for _ in range(threads)]:
            done.result()
    except BaseException as error:  # a Ctrl-C, wherever it came
        course.fail(error)
        course.settle()
        raise
    course.settle()
    if course.failed:
        raise course.failed[0]
