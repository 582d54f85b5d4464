"""A whole training step that CUDA records once and then repeats by itself (``--graph``).

A small network's step is a thousand kernels that each take less time than Python needs to ask for them. Here
all that a step reads and writes stays at the same addresses, nothing is read by the host, and the record asks
for every kernel at once. On other devices the same step runs as it is written, which is how it is tested
where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain

import torch
from torch import Tensor

from lfdeploy.config import TrainConfig
from lfdeploy.console import say
from lfdeploy.errors import UsageError
from training.cohort import Cohort
from training.compiled import Compiled, blocks_of
from training.dropout import Drop
from training.engine import Engine
from training.losses import Ramps
from training.parts import OpenedFile
from training.parts.part import Nodes
from training.shadow import Shadow

SMALL = 64  # pixels a side: with larger pictures a kernel takes longer than to ask for it
WARM = 3  # steps before the record, in which libraries choose their kernels


class Recorded:
    """Steps of an engine and its optimiser (fused: the others read a rate on the host).

    The record is made at the first step, and again where other parameters learn than before.
    """

    def __init__(
        self,
        engine: Engine,
        optimizer: torch.optim.Optimizer,
        clip_norm: float = 0.0,
        compiled: bool = False,
    ) -> None:
        self.blocks = Compiled(engine.cohort).instead if compiled else nullcontext
        self.engine, self.optimizer, self.clip_norm = engine, optimizer, clip_norm
        engine.whole = engine.abreast = True  # on a CPU too: what is recorded elsewhere is tried there
        self.shadow = Shadow(engine.cohort, engine.dtype)
        for group in optimizer.param_groups if engine.device == "cuda" else ():
            group |= {"capturable": True} if "capturable" in group else {}
        optimizer._warned_capturable_if_run_uncaptured = True  # by the steps before the record
        self.given: Nodes = {}
        self.ramps: dict[object, Tensor] = {}
        self.rates: list[Tensor] = []
        self.parts: dict[str, Tensor] = {}
        self.repeat: Callable[[], None] | None = None
        self.learning: list[bool] = []

    def __call__(self, given: Nodes, ramps: Ramps) -> dict[str, Tensor]:
        """Take one step; the parts of the loss, which the next step overwrites."""
        learning = [parameter.requires_grad for parameter in self.engine.cohort.parameters()]
        begins = self.repeat is None or learning != self.learning
        if begins:
            self.given = {name: x.detach().clone() for name, x in given.items()}
            self.ramps = {ramp: factor.detach().clone() for ramp, factor in ramps.items()}
            self.rates = [torch.zeros((), device=self.engine.device) for _ in self.optimizer.param_groups]
            self.learning, self.shadow = learning, Shadow(self.engine.cohort, self.engine.dtype)
            begin_state(self.optimizer)
        for places, values in ((self.given, given), (self.ramps, ramps)):
            for name, place in places.items():
                place.copy_(values[name])  # type: ignore[index]
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if begins:
            self.repeat = self._record() if self.engine.device == "cuda" else self._step
        assert self.repeat is not None
        self.repeat()
        return self.parts

    def _step(self) -> None:
        groups = self.optimizer.param_groups
        self.optimizer.zero_grad(set_to_none=True)
        with self.shadow.instead(), self.blocks():
            parts = self.engine.step(self.given, self.ramps)  # type: ignore[arg-type]
        self.parts, self.engine.seen = doubled(parts), doubled(self.engine.seen)
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.engine.cohort.parameters(), self.clip_norm)
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
        self.optimizer.step()
        for group, number in zip(groups, numbers, strict=True):
            group["lr"] = number

    def _record(self) -> Callable[[], None]:
        """A graph of the step. Neither it nor the steps before it leave a trace in what a step changes."""
        cohort = self.engine.cohort
        states = chain.from_iterable(state.values() for state in self.optimizer.state.values())
        tensors = [*cohort.parameters(), *cohort.buffers(), *states]
        changed = [x.detach() for x in tensors if isinstance(x, Tensor)]
        kept = [x.clone() for x in changed]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        for place, value in zip(changed, kept, strict=True):
            place.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph.replay


def recorder(engine: Engine, optimizer: torch.optim.Optimizer, config: TrainConfig) -> Recorded:
    """Steps as a config has them."""
    return Recorded(engine, optimizer, config.clip_norm or 0.0, config.compile)


def doubled(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Single numbers in float64, by few kernels."""
    return dict(zip(numbers, torch.stack([x.double() for x in numbers.values()]), strict=True))


def begin_state(optimizer: torch.optim.Optimizer) -> None:
    """What the optimiser remembers from its first step on, as zeros, so that this step is like the others."""
    names = ("momentum_buffer",) if isinstance(optimizer, torch.optim.SGD) else ("exp_avg", "exp_avg_sq")
    for parameter in chain.from_iterable(group["params"] for group in optimizer.param_groups):
        state = optimizer.state[parameter]
        for name in names:
            if state.get(name) is None:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        if "exp_avg" in names and "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)


def draws(cohort: Cohort) -> bool:
    """Whether a step draws random numbers, which a record would repeat."""
    return any(part.draws for part in cohort.parts.values()) or any(
        isinstance(module, Drop) for module in cohort.modules()
    )


def check_recorded(
    config: TrainConfig, cohort: Cohort, dtype: torch.dtype, device: str, processes: int, side: int = SMALL
) -> None:
    """Raise `UsageError`, with the reason, where ``--graph`` is asked for and the step cannot be recorded.

    Where it is not asked for and would do, say so of networks that see pictures of a small ``side``.
    """
    reasons = {
        "it is for CUDA, and this training runs on the CPU": device != "cuda",
        "fp16 looks at every step whether it overflowed": dtype == torch.float16,
        "--accumulate takes several steps for one": config.accumulate > 1,
        "several processes meet in every step": processes > 1,
        "dropout, stochastic depth or the method draws anew in every step": draws(cohort),
        "a teacher that is a file alone answers outside of it": any(
            isinstance(part, OpenedFile) for part in cohort.parts.values()
        ),
    }
    against = [reason for reason, holds in reasons.items() if holds]
    if config.graph and against:
        flags = "--graph and --compile" if config.compile else "--graph"
        raise UsageError(f"--graph does not work here: {against[0]}. Drop {flags}.")
    if config.compile and not blocks_of(cohort):
        raise UsageError("--compile finds no blocks that normalise in these networks. Drop --compile.")
    if not config.graph and not against and side <= SMALL:
        say("Note: a GPU is faster than Python can ask it. With --graph small networks learn in less time.")
