"""How one step runs: peers and joints one after the other, or one thread each. Same numbers, other wall time.

On a CPU, small networks leave intra-op threads waiting for each other; a thread per peer does not. Peers meet
only where fusions read their maps: forward passes run side by side up to there, the graph is cut by detached
leaves, and gradients are handed back the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

from lfdeploy.errors import LfdeployError
from training.cohort import Cohort
from training.losses import LossGraph, Nodes, evaluate_graph

T = TypeVar("T")


class Engine:
    """Runs steps of a cohort. ``dtype`` is that of autocast (fp32: none); ``threads`` 0 runs everything in order."""

    def __init__(self, cohort: Cohort, graph: LossGraph, device: str, dtype: torch.dtype, threads: int) -> None:
        self.cohort, self.graph, self.device, self.dtype = cohort, graph, device, dtype
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) if threads > 1 else None
        self.intra_op = torch.get_num_threads()
        if self.pool is not None:
            torch.set_num_threads(1)  # the caller's helpers would spin, and take the cores from the peers

    def close(self) -> None:
        """Stop the threads and give the caller its own back."""
        if self.pool is not None:
            self.pool.shutdown()
            torch.set_num_threads(self.intra_op)

    def autocast(self) -> torch.autocast:
        """The context that every forward pass runs in; it belongs to the thread that enters it.

        Without its cache of cast weights: all threads share that, and the first to leave empties it for the others.
        A layer applied twice (CBAM's perceptron) then sums its gradients in bf16 or in fp32, as the race goes.
        """
        return torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False)

    def step(self, x: Tensor, labels: Tensor, ramp: float) -> dict[str, Tensor]:
        """Forward and backward for normalised images (B, 3, H, W): fills ``.grad`` and returns the detached parts."""
        if self.pool is None:
            with self.autocast():
                nodes = self.cohort(x)
            parts = evaluate_graph(self.graph, nodes, labels, ramp)
            torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
            return {name: part.detach() for name, part in parts.items()}
        return self._threaded_step(x, labels, ramp)

    def _threaded_step(self, x: Tensor, labels: Tensor, ramp: float) -> dict[str, Tensor]:
        cohort = self.cohort
        count, joints = len(cohort.peers), cohort.joints
        outputs = self._side_by_side(lambda i: cohort.peer(i, x), count)
        read = [[_leaves(out) for out in outputs] for _ in range(joints)]  # each joint gets its own leaves
        joined = self._side_by_side(lambda k: cohort.joint(k, read[k]), joints)
        heads = [_leaf(out[0]) for out in outputs]
        ends = [Nodes(_leaf_dict(n.logits), _leaf_dict(n.maps)) for n in joined]
        parts = evaluate_graph(self.graph, cohort.gather(heads, ends), labels, ramp)
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]

        def joint_backward(k: int) -> None:
            real, cut = joined[k], ends[k]
            pairs = [(real.logits[n], cut.logits[n].grad) for n in real.logits] + [(real.maps[n], cut.maps[n].grad) for n in real.maps]
            _backward(pairs)

        self._side_by_side(joint_backward, joints)

        def peer_backward(i: int) -> None:
            grads = [heads[i].grad if n == 0 else None for n in range(len(outputs[i]))]
            for leaves in read:
                for n, leaf in enumerate(leaves[i]):
                    if leaf.grad is not None:
                        grads[n] = leaf.grad  # each joint reads an output of its own
            _backward(list(zip(outputs[i], grads, strict=True)))

        self._side_by_side(peer_backward, count)
        return {name: part.detach() for name, part in parts.items()}

    def forward(self, x: Tensor) -> Nodes:
        """All nodes without gradients, in fp32."""
        with torch.inference_mode():
            if self.pool is None:
                nodes: Nodes = self.cohort(x)
                return nodes
            cohort, dtype, self.dtype = self.cohort, self.dtype, torch.float32
            try:
                outputs = self._side_by_side(lambda i: cohort.peer(i, x), len(cohort.peers))
                joined = self._side_by_side(lambda k: cohort.joint(k, outputs), cohort.joints)
            finally:
                self.dtype = dtype
            return cohort.gather([out[0] for out in outputs], joined)

    def _side_by_side(self, work: Callable[[int], T], count: int) -> list[T]:
        assert self.pool is not None
        inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def run(index: int) -> T:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad), self.autocast():
                return work(index)

        return list(self.pool.map(run, range(count)))


def threads_for(asked: str, cohort: Cohort, device: str) -> int:
    """How many threads: one per peer where that is exact and useful, else 0.

    Layers that draw random numbers keep peers in order (one generator, one sequence), as do shared layers.
    """
    cores = _cores()
    random = any(isinstance(m, nn.Dropout) or type(m).__name__ == "StochasticDepth" for m in cohort.modules())
    possible = device == "cpu" and not random and cohort.share == 0 and len(cohort.peers) > 1 and cores > 1
    return min(cores, max(len(cohort.peers), cohort.joints)) if possible and asked != "shared" else 0


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _leaves(xs: Sequence[Tensor]) -> list[Tensor]:
    return [_leaf(x) for x in xs]


def _leaf_dict(xs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _leaf(x) for name, x in xs.items()}


def _backward(pairs: Sequence[tuple[Tensor, Tensor | None]]) -> None:
    used = [(x, g) for x, g in pairs if g is not None and x.requires_grad]
    if used:
        torch.autograd.backward([x for x, _ in used], [g for _, g in used])


def has_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 in hardware; CUDA emulates it elsewhere, slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported()


def exact_fp32(device: str) -> None:
    """Make fp32 mean fp32 on CUDA too: by default convolutions round their inputs to TF32's ten bits."""
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def settle(device: str) -> None:
    """Wait until the device has done what was asked of it: a clock read afterwards tells the truth."""
    if device == "cuda":
        torch.cuda.synchronize()


def pick_precision(asked: str, cohort: nn.Module, device: str, sample: Tensor) -> tuple[torch.dtype, str]:
    """The forward pass's dtype, and why. bf16 is taken where the device has it and a batch agrees with fp32."""
    has = has_bf16(device)
    if asked == "fp32" or (asked == "auto" and not has):
        return torch.float32, "fp32" if device == "cpu" else "fp32 (TF32 is off)"
    was = cohort.training
    cohort.train()
    with torch.no_grad():
        state = {name: value.clone() for name, value in cohort.state_dict().items()}
        plain = cohort(sample).logits
        with torch.autocast(device, dtype=torch.bfloat16):
            short = cohort(sample).logits
        cohort.load_state_dict(state)
    cohort.train(was)
    worst = max(((short[n].float() - z).pow(2).mean().sqrt() / z.std().clamp_min(1e-6)).item() for n, z in plain.items())
    away = f"{100 * worst:.1f} % of the logits' spread away from fp32"
    if worst > 0.2 or worst != worst:
        if asked == "bf16":
            raise LfdeployError(f"--precision bf16 does not suit this network: the first batch is {away}. Use --precision fp32.")
        return torch.float32, f"fp32 (bf16 put the first batch {away})"
    return torch.bfloat16, f"bf16 (first batch: {away})"
