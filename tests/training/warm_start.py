"""A warm start against what a careful person would write instead: `make photos DATA=folder`.

The same photos, weights, minutes and seeds: lfdeploy's own command; a plain loop of one network (AdamW,
RandomResizedCrop, cosine over the time); logistic regression on features of the frozen network, its strength
chosen by cross-validation. One JSON line for each goes to a file, and what is there already is not run again.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from lfdeploy.config import seconds_of
from lfdeploy.devices import instruction_set
from lfdeploy.images import prepare
from lfdeploy.models import create
from lfdeploy.models.backbone import Backbone
from training.augment import normalise
from training.weights import begin_from, starts_of

ARCH, SIDE, BATCH = "efficientnet_lite0", 224, 32


def listed(data: Path, split: str) -> tuple[list[Path], torch.Tensor, list[str]]:
    """Files, labels and class names of a split of class folders."""
    classes = sorted(folder.name for folder in (data / split).iterdir())
    rows = [(file, n) for n, name in enumerate(classes) for file in sorted((data / split / name).iterdir())]
    return [file for file, _ in rows], torch.tensor([label for _, label in rows]), classes


def network_of(classes: list[str], seed: int) -> tuple[Backbone, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    start = starts_of("default", ARCH, Path("runs"))[ARCH]
    network = create(ARCH, len(classes))
    begin_from(network, start, classes)
    mean, std = (torch.tensor(each) for each in start.pixels)
    return network, mean, std


def evaluated(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    network.eval()
    with torch.inference_mode():
        answers = torch.cat([network(few).argmax(1) for few in torch.split(x, 4)])
    return 100 * float((answers == y).float().mean())


class Photos(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Files decoded and varied one by one, as torchvision's examples do."""

    def __init__(self, files: list[Path], labels: torch.Tensor) -> None:
        self.files, self.labels = files, labels
        crop = v2.RandomResizedCrop(SIDE, (0.35, 1))
        self.vary = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels: torch.Tensor = self.vary(Image.open(self.files[index]).convert("RGB"))
        return pixels.permute(1, 2, 0), int(self.labels[index])


def plain(data: Path, seconds: float, seed: int) -> dict[str, Any]:
    """One network, all of it learning, for so many seconds of wall clock."""
    began = time.perf_counter()
    files, labels, classes = listed(data, "train")
    network, mean, std = network_of(classes, seed)
    others, truth, _ = listed(data, "test")
    test = normalise(torch.from_numpy(np.stack([prepare(file, SIDE) for file in others])), mean, std)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0.05)
    loader = torch.utils.data.DataLoader(Photos(files, labels), BATCH, True, num_workers=2, drop_last=True)
    evaluation = 0.12 * len(others)  # seconds kept for it
    first, steps, share = time.perf_counter(), 0, 0.0
    while share < 1:
        network.train()
        for pixels, target in loader:
            share = (time.perf_counter() - first) / (seconds - evaluation - (first - began))
            if share >= 1:
                break
            rate = 5e-4 * min(1, (steps + 1) / 10) * 0.5 * (1 + math.cos(math.pi * share))
            optimizer.param_groups[0]["lr"] = rate
            loss = F.cross_entropy(network(normalise(pixels, mean, std)), target, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps += 1
    top1, epochs = evaluated(network, test, truth), steps * BATCH / len(files)
    return {"top1": {"network": top1}, "epochs": epochs, "seconds": time.perf_counter() - began}


def logistic(data: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Frozen features of pictures and their mirror images; the only chance is in the folds."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    began = time.perf_counter()
    seen, truths = {}, {}
    for split in ("train", "test"):
        files, truths[split], classes = listed(data, split)
        network, mean, std = network_of(classes, seed)
        network.eval()
        pixels = torch.from_numpy(np.stack([prepare(file, SIDE) for file in files]))
        with torch.inference_mode():
            both = [
                (network.last_map(few) + network.last_map(few.flip(3)).flip(3)).mean((2, 3)) / 2
                for few in torch.split(normalise(pixels, mean, std), 4)
            ]
        seen[split] = torch.cat(both).numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    model = LogisticRegressionCV(Cs=np.logspace(-3, 1, 9), cv=folds, max_iter=1000)
    model.fit(seen["train"], truths["train"].numpy())
    top1 = 100 * float(model.score(seen["test"], truths["test"].numpy()))
    return {"top1": {"network": top1}, "seconds": time.perf_counter() - began}


def ours(data: Path, seconds: float, seed: int, *more: str) -> dict[str, Any]:
    """`lfdeploy train` as anyone types it."""
    began, out = time.perf_counter(), Path("runs") / "photos"
    name = f"{seconds:.0f}s-seed{seed}" + "".join(more).replace("--", "-")
    command = [sys.executable, "-c", "from lfdeploy.cli import main; main()", "train"]
    command += [
        "--data",
        str(data),
        "--arch",
        ARCH,
        "--time",
        f"{seconds:.0f}s",
        "--seed",
        str(seed),
        "--runs",
        str(out),
        "--name",
        name,
        *more,
    ]
    subprocess.run(command, check=True)
    summary = json.loads((out / name / "summary.json").read_text())
    config = json.loads((out / name / "config.json").read_text())
    return {
        "top1": summary["test"]["top1"], "macro_f1": summary["test"]["macro_f1"],
        "epochs": config["epochs"], "steps": config["steps"], "seconds": time.perf_counter() - began,
    }  # fmt: skip


KINDS = {
    "lfdeploy": lambda data, seconds, seed: ours(data, seconds, seed, "--weights", "default"),
    "plain": plain,
    "logistic": logistic,
    "scratch": ours,
}


def main(data: Path, file: Path, duration: str, seeds: int, kinds: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in range(seeds):
        for kind in kinds:
            if any((line["kind"], line["seed"], line["time"]) == (kind, seed, duration) for line in lines):
                continue
            row = {
                "kind": kind,
                "seed": seed,
                "time": duration,
                "cpu": instruction_set(),
                "cores": os.cpu_count(),
            }
            row |= {"torch": torch.__version__, "python": platform.python_version()}
            row |= KINDS[kind](data, seconds_of(duration), seed)
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    print(summary([json.loads(line) for line in file.read_text().splitlines()]))


def summary(lines: list[dict[str, Any]]) -> str:
    """Means and standard deviations over the seeds, as Markdown."""

    def spread(values: list[float]) -> str:
        found = f"{statistics.mean(values):.1f}"
        return found + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")

    rows = [
        "| | time | seeds | networks, their mean | fused | mean of logits | took, s |",
        "| --- |" + " ---: |" * 6,
    ]
    for kind, duration in dict.fromkeys((line["kind"], line["time"]) for line in lines):
        mine = [line for line in lines if (line["kind"], line["time"]) == (kind, duration)]
        tops = [line["top1"] for line in mine]
        single = [[value for name, value in top.items() if name not in ("fused", "ensemble")] for top in tops]
        cells = [kind, duration, str(len(mine)), spread([statistics.mean(values) for values in single])]
        for name in ("fused", "ensemble"):
            cells.append(spread([top[name] for top in tops]) if name in tops[0] else "")
        rows.append("| " + " | ".join([*cells, spread([line["seconds"] for line in mine])]) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:] or list(KINDS))
