"""Is int8 worth it on this CPU? ResNet-18 at 224 px and ResNet-32 at 32 px on CIFAR-100: speed,
size, accuracy.

`make int8 DATA=cifar100.npz` trains both just far enough to be real (seed 0, half an hour on two cores),
exports them and prints the tables; what is in OUT already is not made again. DATA holds train_x, train_y,
test_x, test_y and classes. Usage: int8.py DATA OUT
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

KINDS = (("onnx", "fp32"), ("onnx", "int8"), ("openvino", "int8"))
BATCHES = "1,32"


def twenty_classes(data: Path, out: Path) -> None:
    """Every fifth class of CIFAR-100: 250 training pictures of each to train, the others and the test
    pictures to test.
    """
    found = np.load(data)
    x, y, test_x, test_y = (found[key] for key in ("train_x", "train_y", "test_x", "test_y"))
    train, test = [], []
    for k in range(0, 100, 5):
        train.append(x[y == k][:250])
        test.append(np.concatenate([x[y == k][250:], test_x[test_y == k]]))
    labels = [np.repeat(np.arange(20), len(side[0])) for side in (train, test)]
    np.savez(
        out,
        classes=found["classes"][::5],
        train_x=np.concatenate(train),
        train_y=labels[0],
        test_x=np.concatenate(test),
        test_y=labels[1],
    )


def lf(*words: str | Path) -> str:
    """What lfdeploy prints on standard output."""
    command = [str(Path(sys.executable).parent / "lfdeploy"), *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def accuracies(artifacts: Path) -> str:
    """The change of top-1 by int8, in points, on the whole test split."""
    lines = []
    for format, precision in KINDS[1:]:
        found = json.loads((artifacts / f"peer0-{format}-{precision}" / "manifest.json").read_text())[
            "parity"
        ]["statistics"]
        change, low, high = found["top1"] - found["top1_reference"], found["ci_low"], found["ci_high"]
        interval = f"{change:+.2f} ({low:+.2f} to {high:+.2f})"
        lines.append(
            f"{format} {precision}: {found['top1_reference']:.2f} % {interval}, {found['images']:,} pictures"
        )
    return "\n".join(lines)


def ratios(rows: list[dict[str, Any]]) -> str:
    """How many times as fast as eager PyTorch and as fp32 ONNX each int8 file is, by batch."""
    speed = {(row["artifact"], row["batch"]): row["ratio"] for row in rows}
    lines = []
    for (name, batch), ratio in speed.items():
        if name.endswith("int8"):
            lines.append(
                f"{name} batch {batch}: {ratio:.1f}x eager PyTorch, "
                f"{ratio / speed['peer0-onnx-fp32', batch]:.1f}x fp32 ONNX"
            )
    return "\n".join(lines)


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    twenty_classes(data, out / "cifar20.npz")
    small = ["--data", data, "--arch", "resnet32", "--peers", "4", "--epochs", "3"]
    large = [
        "--data",
        out / "cifar20.npz",
        "--arch",
        "resnet18",
        "--peers",
        "1",
        "--method",
        "independent",
        "--epochs",
        "3",
    ]
    large += ["--batch-size", "32", "--lr", "0.02", "--image-size", "224"]
    for name, words, rounds in (("resnet18", large, 15), ("resnet32", small, 30)):
        run = out / name
        if not run.exists():
            print(lf("train", *words, "--runs", out, "--name", name))
        files = [run / "artifacts" / f"peer0-{format}-{precision}" for format, precision in KINDS]
        if not all(file.exists() for file in files[:2]):
            lf("export", run, "--peer", "0", "--precision", "fp32,int8")
        if not files[2].exists():
            lf("export", run, "--peer", "0", "--format", "openvino", "--precision", "int8")
        found = json.loads(
            lf(
                "bench",
                *files,
                "--batch",
                BATCHES,
                "--rounds",
                str(rounds),
                "--markdown",
                out / f"{name}.md",
                "--json",
            )
        )
        print(
            f"\n{name}\n\n{(out / f'{name}.md').read_text()}\n"
            f"{ratios(found['rows'])}\n{accuracies(run / 'artifacts')}",
            flush=True,
        )


if __name__ == "__main__":
    main()
