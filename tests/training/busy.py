"""Training beside other work: `make busy`.

Eight processes spin. Then each architecture trains for some seconds, in turn, as lfdeploy comes and with
OMP_NUM_THREADS=1, each in a process of its own: the ratio of the steps per second is printed, the median over
rounds, with the least.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lfdeploy.devices import instruction_set

SPINNERS, SECONDS = 8, 12.0
#: One network takes all cores by OpenMP; two take a core each. ``LFDEPLOY_PEERS=1`` measures the one alone.
PEERS = [int(word) for word in os.environ.get("LFDEPLOY_PEERS", "2 1").split()]
SMALL = ("resnet8", "resnet32", "wrn16_2", "mobilenet_v2_cifar")
ARCHS = (*SMALL, "resnet18", "mobilenet_v3_small", "efficientnet_lite0")


def spin() -> None:
    while True:
        pass


def steps_per_second(arch: str, peers: int, folder: str) -> float:
    """Of a training by ffl on noise, after three steps that do not count, as the command line comes."""
    from lfdeploy import early  # noqa: F401  (before torch)
    from lfdeploy.config import TrainConfig
    from training.setup import prepare

    size = 32 if arch in SMALL else 64
    noise = np.random.default_rng(0).integers(0, 255, (512, size, size, 3), np.uint8)
    labels, data = np.arange(512) % 10, Path(folder) / f"{arch}.npz"
    arrays = {"train_x": noise, "train_y": labels, "test_x": noise, "test_y": labels}
    np.savez(data, allow_pickle=False, classes=np.arange(10).astype(str), **arrays)
    method = "ffl" if peers > 1 else "independent"
    config = TrainConfig(data=str(data), arch=arch, peers=peers, method=method, batch_size=64, val_fraction=0)
    made = prepare(config, f"{arch}-{os.getpid()}", Path(folder), None, [], time.perf_counter())
    ramps, done, begun = made.engine.graph.ramps(0, 1), 0, 0.0
    while True:
        for batch in made.batches.epoch(done):
            made.optimizer.zero_grad(set_to_none=True)
            made.engine.step(batch.given(made.mean, made.std), ramps)
            made.optimizer.step()
            done += 1
            if done == 3:
                begun = time.perf_counter()
            if done > 3 and time.perf_counter() - begun > SECONDS:
                return (done - 3) / (time.perf_counter() - begun)


def measured(arch: str, peers: int, alone: bool) -> float:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": "1"} if alone else {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, arch, str(peers), folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(spinners: int, rounds: int, archs: list[str]) -> None:
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(spinners)]
    for each in others:
        each.start()
    for arch in archs:
        for peers in PEERS:
            ratios = [measured(arch, peers, False) / measured(arch, peers, True) for _ in range(rounds)]
            row = {"arch": arch, "peers": peers, "ratio": statistics.median(ratios), "least": min(ratios)}
            row |= {"spinners": spinners, "rounds": rounds, "cpu": instruction_set()}
            print(json.dumps(row), flush=True)
    for each in others:
        each.terminate()


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in ARCHS:
        print(steps_per_second(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
    else:
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(ARCHS))
