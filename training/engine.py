"""How one step runs: parts one after the other, or those of a wave in one thread each.

Same numbers, other wall time.

On a CPU, small networks leave intra-op threads waiting for each other; a thread per part does not. Parts meet
only where one reads another: there the graph is cut by detached leaves, and gradients are handed back the
same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfdeploy.errors import LfdeployError
from training.cohort import Cohort
from training.losses import LossGraph, Ramps, evaluate_graph
from training.parts import Nodes, Part, run
from training.parts.part import wide

T = TypeVar("T")


class Engine:
    """Runs steps of a cohort.

    ``dtype`` is that of autocast (fp32: none); ``threads`` 0 runs everything in order, with at most ``most``
    threads within an operation (0: torch's own number).
    """

    def __init__(
        self, cohort: Cohort, graph: LossGraph, device: str, dtype: torch.dtype, threads: int, most: int = 0
    ) -> None:
        self.cohort, self.graph, self.device, self.dtype = cohort, graph, device, dtype
        self.threads = threads if threads > 1 else 0
        self.pool = (
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
            if threads > 1
            else None
        )
        self.intra_op = torch.get_num_threads()
        if most:
            torch.set_num_threads(most)
        self.seen: Nodes = {}
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
        if self.pool is None:
            with self.autocast():
                nodes = self.cohort(given)
            parts = evaluate_graph(self.graph, nodes, ramps)
            _backward(parts, factor)
            self._see(nodes)
            return {name: part.detach() for name, part in parts.items()}
        return self._threaded_step(given, ramps, factor)

    def _see(self, nodes: Nodes) -> None:
        labels = nodes["labels"]
        logits = {name: nodes[name] for name in self.cohort.layout.targets if name in nodes}
        with torch.no_grad():
            for name, values in logits.items():
                self.seen[f"{name}.top1"] = (values.argmax(1) == labels).double().mean()
                self.seen[f"{name}.cross_entropy"] = F.cross_entropy(wide(values), labels)

    def _threaded_step(self, given: Nodes, ramps: Ramps, factor: Tensor | float) -> dict[str, Tensor]:
        """Each part runs in a thread of its own, on leaves that cut the graph at its door; gradients are
        handed back in reverse.
        """
        nodes = dict(given)
        trips = [self._wave(wave, nodes) for wave in self.cohort.waves]
        leaves = {name: _leaf(x) if x.requires_grad else x for name, x in nodes.items()}
        with self.autocast():
            ends = run(self.cohort.tail, leaves)
        parts = evaluate_graph(self.graph, ends, ramps)
        _backward(parts, factor)
        self._see(ends)
        gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        for trip in reversed(trips):
            self._side_by_side(lambda i, trip=trip: trip[i].backward(gradients), len(trip))  # type: ignore[misc]
            for passage in trip:
                for name, leaf in passage.read.items():
                    if leaf.grad is not None:
                        gradients[name] = gradients[name] + leaf.grad if name in gradients else leaf.grad
        return {name: part.detach() for name, part in parts.items()}

    def _wave(self, wave: Sequence[Part], nodes: Nodes) -> list[Passage]:
        """Run the parts of a wave side by side; their tensors are added to ``nodes``."""
        ready = [part for part in wave if part.readable(nodes)]
        if len(ready) == 1 and ready[0].by_picture:
            part = ready[0]
            gave = self._pieces(lambda *read: part(*read), [nodes[name] for name in part.reads])
            nodes.update({name: torch.cat([each[name] for each in gave]) for name in gave[0]})
            return []

        def passage(index: int) -> Passage:
            part = ready[index]
            read = {
                name: _leaf(nodes[name]) if nodes[name].requires_grad else nodes[name] for name in part.reads
            }
            return Passage(read, part(*read.values()))

        passages = self._side_by_side(passage, len(ready))
        for made in passages:
            nodes.update(made.gave)
        return passages

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
                for wave in self.cohort.waves:
                    self._wave([part for part in wave if part.name in parts], nodes)
                return run([part for part in self.cohort.tail if part.name in parts], nodes)
            finally:
                self.dtype = dtype

    def _side_by_side(self, work: Callable[[int], T], count: int) -> list[T]:
        assert self.pool is not None
        inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def run(index: int) -> T:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad), self.autocast():
                return work(index)

        return list(self.pool.map(run, range(count)))


@dataclass(frozen=True)
class Passage:
    """One part's way through a step: the leaves that it read, and what it gave."""

    read: Nodes
    gave: Nodes

    def backward(self, gradients: Nodes) -> None:
        """From the gradients of what it gave to those of its weights and of what it read."""
        used = [
            (x, gradients[name]) for name, x in self.gave.items() if name in gradients and x.requires_grad
        ]
        if used:
            torch.autograd.backward([x for x, _ in used], [gradient for _, gradient in used])


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


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def has_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 in hardware; CUDA emulates it elsewhere, slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported()


def exact_fp32(device: str) -> None:
    """Make fp32 mean fp32 on CUDA too, where convolutions round their inputs to TF32's ten bits, and the same
    each time.
    """
    if device == "cuda":
        torch.backends.cudnn.deterministic = True  # else its sums of gradients come in any order
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def settle(device: str) -> None:
    """Wait until the device has done what was asked of it: a clock read afterwards tells the truth."""
    if device == "cuda":
        torch.cuda.synchronize()


def shorter(asked: str, device: str) -> str:
    """The precision that is asked for; auto is bf16 where the device has it, else fp16 on a GPU."""
    if asked != "auto":
        return asked
    if has_bf16(device):
        return "bf16"
    return "fp16" if device == "cuda" else "fp32"


def pick_precision(asked: str, cohort: Cohort, device: str, sample: Tensor) -> tuple[torch.dtype, str]:
    """The forward pass's dtype, and why. By itself a shorter one is taken only where a batch agrees with
    fp32.
    """
    name = shorter(asked, device)
    if name == "fp32":
        return torch.float32, "fp32" if device == "cpu" else "fp32 (TF32 is off)"
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    was = cohort.training
    cohort.train()
    with torch.no_grad():
        state = {name: value.clone() for name, value in cohort.state_dict().items()}
        plain = cohort.see(sample)
        with torch.autocast(device, dtype=dtype):
            short = cohort.see(sample)
        cohort.load_state_dict(state)
    cohort.train(was)
    spread = {name: plain[name].std().clamp_min(1e-6) for name in cohort.names}
    worst = max(
        ((short[name].float() - plain[name]).pow(2).mean().sqrt() / spread[name]).item()
        for name in cohort.names
    )
    away = f"{100 * worst:.1f} % of the logits' spread away from fp32"
    if worst > 0.2 or worst != worst:
        if asked == name:
            raise LfdeployError(
                f"--precision {name} does not suit this network: the first batch is {away}. Use "
                "--precision fp32."
            )
        return torch.float32, f"fp32 ({name} put the first batch {away})"
    if device == "cpu" and not (name == "bf16" and has_bf16(device)):
        away += "; most CPUs compute it in software, many times slower than fp32"
    return dtype, f"{name} (first batch: {away})"
