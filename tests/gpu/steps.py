"""Where the time of a training step on CUDA goes: steps.py [ARCH [METHOD]]

Two networks, batches of 128 pictures of 32 px. First milliseconds of a step, eager and recorded, in one
stream and in several, compiled or not; then the kernels of one recorded step, the costliest first; then a
step with all that the loop does around it.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from lfdeploy.data import Split
from training import metrics
from training.augment import Augment
from training.batches import Batches
from training.bench import BATCH, MEAN, STD, _begun, _pictures
from training.compare.entries import entries_of
from training.engine import Engine
from training.precision import exact_fp32
from training.recorded import Recorded

ROUNDS, STEPS, SHOWN = 5, 50, 20
BF16, FP32 = torch.bfloat16, torch.float32
VARIANTS = {
    "bf16, eager": (BF16, False, False, False),
    "bf16, recorded, one stream": (BF16, True, False, False),
    "bf16, recorded": (BF16, True, True, False),
    "bf16, recorded, compiled": (BF16, True, True, True),
    "fp32, recorded": (FP32, True, True, False),
}


class Steps:
    """A method's steps in one variant, and the batches that they take."""

    def __init__(
        self, arch: str, method: str, dtype: torch.dtype, record: bool, abreast: bool, compiled: bool
    ) -> None:
        exact_fp32("cuda")
        images, labels = _pictures()
        cohort, graph = _begun(arch, entries_of(method)[0], 2, "cuda")
        cohort = cohort.to(memory_format=torch.channels_last).train()
        self.engine = Engine(cohort, graph, "cuda", dtype, 0)
        self.optimizer = torch.optim.SGD(
            cohort.parameter_groups(5e-4), lr=0.01, momentum=0.9, nesterov=True, fused=True
        )
        split = Split(images, labels.astype(np.int64), "")
        self.batches = Batches(split, BATCH, Augment(4, True), 0, "cuda", cohort.views)
        self.pixels = torch.tensor(MEAN, device="cuda"), torch.tensor(STD, device="cuda")
        self.given = next(self.batches.epoch(0)).given(*self.pixels)
        self.ramps = graph.ramps(1, 1, "cuda")
        self.recorded = Recorded(self.engine, self.optimizer, compiled=compiled) if record else None
        self.engine.abreast = abreast
        self.step: Callable[[], object] = self._plain
        if self.recorded:
            self.recorded(self.given, self.ramps)
            assert self.recorded.repeat is not None
            self.step = self.recorded.repeat

    def _plain(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.engine.step(self.given, self.ramps)
        self.optimizer.step()

    def milliseconds(self) -> float:
        """Of a step, by the GPU's clock: the median of some rounds, after one that does not count."""
        found = []
        for _ in range(ROUNDS + 1):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(STEPS):
                self.step()
            end.record()
            torch.cuda.synchronize()
            found.append(begin.elapsed_time(end) / STEPS)
        return float(np.median(found[1:]))

    def kernels(self) -> dict[str, list[float]]:
        """Microseconds of every kernel of one step, by name."""
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            self.step()
            torch.cuda.synchronize()
        times: dict[str, list[float]] = defaultdict(list)
        for event in seen.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                times[event.name].append(event.device_time)
        return times

    def in_the_loop(self) -> tuple[float, float]:
        """Milliseconds of a step with batches and sums: until the host asked for it, and until it is done."""
        assert self.recorded is not None
        sums: dict[str, torch.Tensor] = {}
        count, begin = 0, time.perf_counter()
        for epoch in range(4):
            for batch in self.batches.epoch(epoch):
                parts = self.recorded(batch.given(*self.pixels), self.ramps)
                metrics.add(sums, parts, self.engine.seen)
                count += 1
        asked = time.perf_counter() - begin
        torch.cuda.synchronize()
        return 1e3 * asked / count, 1e3 * (time.perf_counter() - begin) / count


def main() -> None:
    arch, method = [*sys.argv[1:], *("resnet32", "lfmkd")[len(sys.argv) - 1 :]][:2]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: 2 x {arch}, {method}")
    print("| step | ms |\n| --- | ---: |")
    for name, variant in VARIANTS.items():
        print(f"| {name} | {Steps(arch, method, *variant).milliseconds():.2f} |", flush=True)
    steps = Steps(arch, method, *VARIANTS["bf16, recorded"])
    times = steps.kernels()
    total = sum(map(sum, times.values()))
    print(f"\n{sum(map(len, times.values()))} kernels, {total:.0f} us one after the other:")
    print("| kernel | times | us |\n| --- | ---: | ---: |")
    for name, each in sorted(times.items(), key=lambda pair: -sum(pair[1]))[:SHOWN]:
        print(f"| {name[:100]} | {len(each)} | {sum(each):.0f} |")
    print("\nIn the loop: asked for after {:.2f} ms a step, done after {:.2f}".format(*steps.in_the_loop()))


main()
