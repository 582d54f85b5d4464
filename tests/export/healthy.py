"""Healthy exports of every architecture in the table: how many does the gate refuse? `make healthy` prints
the table.

Networks are trained for six short epochs, with which every one learns its four classes. Not a test: it takes
hours on two cores. What is done stands in RESULTS, a line each; a second call goes on from there. Lines of
another version of the code are not counted: begin with a new file.

Usage: healthy.py RESULTS [KINDS] [ARCH...], with kinds like onnx-fp16,openvino-int8. Heavy networks go
through the first kind only, unless they are named.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import export, pipeline, prove
from lfdeploy import __version__
from lfdeploy.config import ExportConfig, TrainConfig
from lfdeploy.devices import instruction_set
from lfdeploy.errors import LfdeployError
from lfdeploy.models import ARCHITECTURES, architecture, create
from lfdeploy.run import Run
from training import train


def write_pictures(path: Path) -> None:
    """Four classes that differ by colour and by the direction of a ramp, 48 px, 640 for training, 400
    to test.
    """
    random = np.random.default_rng(0)
    colours, ramp = random.integers(60, 196, (4, 3)), np.linspace(-40, 40, 48)
    fields = [np.broadcast_to(r, (48, 48)) for r in (ramp[None], -ramp[None], ramp[:, None], -ramp[:, None])]
    arrays = {}
    for split, count in (("train", 640), ("test", 400)):
        labels = np.arange(count) % 4
        base = colours[labels][:, None, None, :] + np.stack(fields)[labels][..., None]
        noise = random.integers(-50, 50, (count, 48, 48, 3))
        arrays |= {f"{split}_x": (base + noise).clip(0, 255).astype(np.uint8), f"{split}_y": labels}
    np.savez(path, classes=np.array(list("abcd")), **arrays)


KINDS = "onnx-fp32,onnx-fp16,onnx-int8,openvino-fp32,openvino-int8,torch-fp32"


def trained(arch: str, data: Path, runs: Path) -> Run:
    config = TrainConfig(
        data=str(data), arch=arch, peers=1, method="independent", epochs=6, lr=0.01, batch_size=32,
        image_size=32 if architecture(arch).largest == 64 else 48,
    )  # fmt: skip
    return train(config, name=arch.replace(":", "-"), runs=runs)


def heavy(arch: str) -> bool:
    """More than 30 million weights: one export, in the first kind, has to do."""
    if arch.startswith("regnet"):
        return False  # those of the table are small, and RegNets cannot be built without numbers
    with torch.device("meta"):
        return sum(p.numel() for p in create(arch, 4).parameters()) > 30_000_000


def judged(run: Run, arch: str, kind: str) -> dict[str, Any]:
    """The verdict of one export, with its distance from the module, or the stage that refused it."""
    format, precision = kind.split("-")
    row: dict[str, Any] = {"arch": arch, "kind": kind, "cpu": instruction_set(), "lfdeploy": __version__}
    try:
        manifest = export(ExportConfig(peer=0, format=format, precision=precision), run)[0].manifest
    except LfdeployError as error:
        return row | {"verdict": "REFUSED", "why": str(error).split(";")[0].split(" failed at ")[-1]}
    parity = manifest["parity"]
    found = {key: parity["statistics"][key] for key in ("max_difference", "agreement", "top1_reference")}
    return row | {"verdict": parity["verdict"], "not_examined": parity["not_examined"]} | found


def main() -> None:
    results = Path(sys.argv[1])
    # proven in this process: a fresh one imports for ten seconds and finds the same
    pipeline.in_fresh_process = lambda run, staged, data, locks: prove.write_reports(run, staged, data)  # type: ignore[assignment]
    asked = (sys.argv[2] if len(sys.argv) > 2 else KINDS).split(",")
    archs = sys.argv[3:] or list(ARCHITECTURES)
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_pictures(place / "data.npz")
        for arch in archs:
            done = {row["kind"] for row in rows if row["arch"] == arch}
            kinds = asked[:1] if heavy(arch) and not sys.argv[3:] else asked
            missing = [kind for kind in kinds if kind not in done]
            run = trained(arch, place / "data.npz", place / "runs") if missing else None
            for kind in missing:
                assert run is not None
                rows.append(judged(run, arch, kind))
                with results.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(f"{arch:<20} {kind:<14} {rows[-1]['verdict']}", flush=True)
            if run is not None:
                shutil.rmtree(run.path)
    for kind in asked:
        of = [row["verdict"] for row in rows if row["kind"] == kind]
        print(f"{kind}: {of.count('pass')} of {len(of)} healthy exports pass")
    print(f"on {instruction_set()}")


if __name__ == "__main__":
    main()
