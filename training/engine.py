"""How one step runs: parts one after the other, or pieces of them in several threads.

Same numbers, other wall time.

On a CPU, small networks leave intra-op threads waiting for each other; a thread for each piece does not.
Pieces meet only where one reads another: there the graph is cut by detached leaves, and gradients are handed
back the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.cohort import Cohort
from training.lanes import Lanes
from training.losses import LossGraph, Ramps, evaluate_graph
from training.parts import Nodes, run
from training.parts.part import wide
from training.plan import Graph, Plan, in_order, plan_of, run_all, ways

T = TypeVar("T")


class Engine:
    """Runs steps of a cohort.

    ``dtype`` is that of autocast (fp32: none); ``threads`` 0 runs everything in order, with at most ``most``
    threads within an operation (0: torch's own number). A CPU computes a step in pieces, so that it has the
    same bits in any number of threads; elsewhere, or ``whole``, it is one graph.
    """

    def __init__(
        self,
        cohort: Cohort,
        graph: LossGraph,
        device: str,
        dtype: torch.dtype,
        threads: int,
        most: int = 0,
        whole: bool = False,
    ) -> None:
        self.cohort, self.graph, self.device, self.dtype = cohort, graph, device, dtype
        self.threads = threads if threads > 1 else 0
        self.whole = whole or device != "cpu"
        self.pool = (
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
            if threads > 1
            else None
        )
        self.intra_op = torch.get_num_threads()
        if most:
            torch.set_num_threads(most)
        self.abreast = False  # a whole step's pieces on streams of their own, where there are streams
        self.lanes: dict[frozenset[str], Lanes] = {}
        self.seen: Nodes = {}
        self.plans: dict[frozenset[str], Plan] = {}
        if self.pool is not None:
            torch.set_num_threads(1)  # the caller's helpers would spin, and take the cores from the peers

    def close(self) -> None:
        """Stop the threads and give the caller its own back."""
        if self.pool is not None:
            self.pool.shutdown()
        if torch.get_num_threads() != self.intra_op:
            torch.set_num_threads(self.intra_op)

    def autocast(self) -> torch.autocast:
        """The context that every forward pass runs in; it belongs to the thread that enters it.

        Without its cache of cast weights: all threads share that, and the first to leave empties it for the
        others. A layer applied twice (CBAM's perceptron) then sums its gradients in bf16 or in fp32, as the
        race goes.
        """
        return torch.autocast(
            self.device, dtype=self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False
        )

    def step(self, given: Nodes, ramps: Ramps, factor: Tensor | float = 1.0) -> dict[str, Tensor]:
        """Forward and backward of one step: adds ``factor`` times the gradient to ``.grad``, and returns the
        detached parts of the loss.

        ``given``: ``view0``.. normalised images (B, 3, H, W), ``labels`` (B,), ``index`` (B,) where a part
        remembers pictures. ``seen`` then holds by target ``NAME.top1``, the share of right answers, and
        ``NAME.cross_entropy``, without weights or smoothing.
        """
        if self.whole:
            with self.autocast():
                nodes = self._abreast(given) if self.abreast else self.cohort(given)
            parts = evaluate_graph(self.graph, nodes, ramps)
            _backward(parts, factor)
            self._see(nodes)
            return {name: part.detach() for name, part in parts.items()}
        return self._step_in_pieces(given, ramps, factor)

    def _abreast(self, given: Nodes) -> Nodes:
        if (known := frozenset(given)) not in self.lanes:
            self.lanes[known] = Lanes(plan_of(self.cohort.waves, given), self.device)
        return self.lanes[known].forward(given, self.cohort.tail)

    def _see(self, nodes: Nodes) -> None:
        labels = nodes["labels"]
        names = [name for name in self.cohort.layout.targets if name in nodes]
        with torch.no_grad():
            logits = torch.stack([wide(nodes[name]) for name in names])
            right = (logits.argmax(2) == labels).double().mean(1)
            of_each = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(names)), reduction="none")
            entropy = of_each.view(len(names), -1).mean(1)
        for number, name in enumerate(names):
            self.seen[f"{name}.top1"] = right[number]
            self.seen[f"{name}.cross_entropy"] = entropy[number]

    def _step_in_pieces(self, given: Nodes, ramps: Ramps, factor: Tensor | float) -> dict[str, Tensor]:
        """Pieces of parts run on leaves that cut the graph at their doors; gradients are handed back in
        reverse.
        """
        given = self._ahead(given, self.cohort.parts)
        if (known := frozenset(given)) not in self.plans:
            self.plans[known] = plan_of(self.cohort.waves, given)
        plan = self.plans[known]
        nodes, passages = self._there(plan, given)
        leaves = {name: _leaf(x) if x.requires_grad else x for name, x in nodes.items()}
        with self.autocast():
            ends = run(self.cohort.tail, leaves)
        parts = evaluate_graph(self.graph, ends, ramps)
        _backward(parts, factor)
        self._see(ends)
        self._back(plan, passages, leaves)
        return {name: part.detach() for name, part in parts.items()}

    def _ahead(self, given: Nodes, names: Collection[str]) -> Nodes:
        """The given tensors, and those of a first part that needs no gradients and has nothing beside it: of
        some pictures in each thread.
        """
        parts = [part for part in self.cohort.waves[0] if part.name in names]
        if self.pool is None or len(parts) != 1 or not parts[0].by_picture or not parts[0].readable(given):
            return given
        gave = self._pieces(lambda *read: parts[0](*read), [given[name] for name in parts[0].reads])
        return given | {name: torch.cat([each[name] for each in gave]) for name in gave[0]}

    def _there(self, plan: Plan, given: Nodes) -> tuple[Nodes, list[Passage]]:
        """All tensors, and how each piece came to its own."""
        nodes, passages = dict(given), [Passage({}, {})] * len(plan.links)

        def work(number: int) -> None:
            start, link = time.perf_counter(), plan.links[number]
            read = {name: _leaf(x) if (x := nodes[name]).requires_grad else x for name in link.reads}
            passages[number] = Passage(read, link.work(*(read[name] for name in link.reads)))
            nodes.update(passages[number].gave)
            plan.forward[number] = _least(plan.forward[number], start)

        self._run(work, plan.before, plan.after, ways(plan.forward, plan.after))
        return nodes, passages

    def _back(self, plan: Plan, passages: Sequence[Passage], leaves: Nodes) -> None:
        """Gradients of all weights, from those of the leaves that the loss was computed on."""

        def gradient(name: str) -> Tensor | None:
            read = [leaves[name], *(passages[reader].read[name] for reader in plan.readers.get(name, ()))]
            found = [leaf.grad for leaf in read if leaf.grad is not None]
            for other in found[1:]:
                found[0].add_(other)
            return found[0] if found else None

        def work(number: int) -> None:
            start = time.perf_counter()
            passages[number].backward(gradient)
            plan.backward[number] = _least(plan.backward[number], start)

        self._run(work, plan.after, plan.before, ways(plan.backward, plan.before, backwards=True))

    def _run(
        self, work: Callable[[int], None], waits_for: Graph, follows: Graph, way: Sequence[float]
    ) -> None:
        if self.pool is None:
            with self.autocast():
                for number in in_order(waits_for):
                    work(number)
        else:
            run_all(self.pool, self.threads, self._modes(), work, waits_for, follows, way)

    def in_pieces(self, work: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What ``work`` gives for images (B, ...) in fp32, each thread computing some of them."""
        dtype, self.dtype = self.dtype, torch.float32
        try:
            return work(images) if self.pool is None else torch.cat(self._pieces(work, [images]))
        finally:
            self.dtype = dtype

    def _pieces(self, work: Callable[..., T], tensors: Sequence[Tensor]) -> list[T]:
        """What work gives for some of the pictures in each thread."""
        pieces = [x.chunk(self.threads) for x in tensors]
        return self._side_by_side(lambda i: work(*(each[i] for each in pieces)), len(pieces[0]))

    def forward(self, images: Tensor, names: Sequence[str] | None = None) -> Nodes:
        """All tensors that need nothing but images (B, 3, H, W), without gradients, in fp32.

        With ``names`` only what these need is computed.
        """
        parts = set(self.cohort.parts) if names is None else self.cohort.needed(names)
        nodes = self.cohort.views_of(images)
        with torch.inference_mode():
            if self.pool is None:
                return run([part for name, part in self.cohort.parts.items() if name in parts], nodes)
            dtype, self.dtype = self.dtype, torch.float32
            try:
                nodes = self._ahead(nodes, parts)
                waves = [[part for part in wave if part.name in parts] for wave in self.cohort.waves]
                nodes, _ = self._there(plan_of(waves, nodes, whole=True), nodes)
                return run([part for part in self.cohort.tail if part.name in parts], nodes)
            finally:
                self.dtype = dtype

    def _side_by_side(self, work: Callable[[int], T], count: int) -> list[T]:
        assert self.pool is not None
        modes = self._modes()

        def run(index: int) -> T:
            with modes():
                return work(index)

        return list(self.pool.map(run, range(count)))

    def _modes(self) -> Callable[[], AbstractContextManager[None]]:
        """A context for another thread: the modes of the calling one."""
        inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        @contextmanager
        def modes() -> Iterator[None]:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad), self.autocast():
                yield

        return modes


@dataclass(frozen=True)
class Passage:
    """One piece's way through a step: the leaves that it read, and what it gave."""

    read: Nodes
    gave: Nodes

    def backward(self, gradient: Callable[[str], Tensor | None]) -> None:
        """From the gradients of what it gave to those of its weights and of what it read."""
        given = [(x, gradient(name)) for name, x in self.gave.items() if x.requires_grad]
        used = [(x, of_x) for x, of_x in given if of_x is not None]
        if used:
            torch.autograd.backward([x for x, _ in used], [of_x for _, of_x in used])


def threads_for(asked: str, cohort: Cohort, device: str) -> int:
    """How many threads: one per part of the widest wave where that is exact and useful, else 0.

    ``asked``: auto, peer, shared, or how many there may be at most. What draws from torch's one generator, in
    one sequence, keeps everything in order.
    """
    most, widest = int(asked) if asked.isdecimal() else cores(), max(len(wave) for wave in cohort.waves)
    random = any(isinstance(m, nn.Dropout) or type(m).__name__ == "StochasticDepth" for m in cohort.modules())
    random |= any(part.draws for part in cohort.parts.values())
    possible = device == "cpu" and not random and len(cohort.peers) > 1 and most > 1
    return min(most, widest) if possible and asked != "shared" else 0


def cores() -> int:
    """How many this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _backward(parts: dict[str, Tensor], factor: Tensor | float) -> None:
    loss = torch.stack(list(parts.values())).sum()
    (loss if isinstance(factor, float) and factor == 1.0 else factor * loss).backward()  # type: ignore[no-untyped-call]


def _least(before: float, start: float) -> float:
    seconds = time.perf_counter() - start
    return min(before, seconds) if before else seconds


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()
