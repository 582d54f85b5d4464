"""Many large pictures: `make large`. How much anonymous memory a training takes, how fast pictures come, and
what a second look at them costs.

Makes 20,000 JPEGs of 500 px, trains a few steps of a network at 224 px on them with a cache, and evaluates.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from lfdeploy.devices import instruction_set
from lfdeploy.run import Run
from training.augment import Augment
from training.batches import Batches

SIDE, SIZE, CLASSES, STEPS = 500, 224, 10, 6


def make(folder: Path, count: int) -> None:
    """Pictures of a few smooth patches, so that files are as large as photos'."""
    for label in range(CLASSES):
        (folder / f"class {label}").mkdir(parents=True)

    def one(number: int) -> None:
        random = np.random.default_rng(number)
        coarse = random.integers(0, 255, (40, 40, 3), np.uint8)
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(folder / f"class {number % CLASSES}" / f"{number}.jpg", quality=85)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(count)))


def watched(words: list[str]) -> tuple[float, float]:
    """Seconds of a command, and its largest anonymous memory in GB."""
    began, most = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "lfdeploy", *words])
    while process.poll() is None:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            sizes = [int(line.split()[1]) for line in text.splitlines() if line.startswith("Anonymous")]
            most = max(most, *sizes)
        except OSError:
            pass
        try:
            process.wait(0.3)
        except subprocess.TimeoutExpired:
            pass
    assert process.returncode == 0
    return time.perf_counter() - began, most / 1e6


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, runs, cache = Path(place) / "photos", Path(place) / "runs", Path(place) / "cache"
        make(folder, count)
        row: dict[str, object] = {"pictures": count, "cpu": instruction_set(), "cores": os.cpu_count()}
        words = ["train", "--data", str(folder), "--image-size", str(SIZE), "--arch", "resnet18"]
        words += [
            "--peers",
            "1",
            "--method",
            "independent",
            "--epochs",
            "1",
            "--steps",
            str(STEPS),
            "--val-fraction",
            "0.005",
        ]
        words += ["--test-fraction", "0.01", "--runs", str(runs), "--name", "large", "--cache", str(cache)]
        row["train s"], row["train GB"] = watched(words)
        row["evaluate s"], row["evaluate GB"] = watched(["evaluate", str(runs / "large")])
        row["cache GB"] = sum(file.stat().st_size for file in cache.iterdir()) / 1e9
        run = Run(runs / "large")
        split = run.data(need=()).train
        batches = Batches(split, 32, Augment(0, True, 192), 0, "cpu")
        began, steps = time.perf_counter(), 0
        for _ in batches.epoch(0):
            steps += 1
            if steps == 40:
                break
        row["loader pictures/s"] = steps * 32 / (time.perf_counter() - began)
        row["trained pictures/s"] = run.read("summary.json")["images_per_second"]
        print(json.dumps(row))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
