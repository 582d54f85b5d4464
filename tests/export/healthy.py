"""Healthy exports of every architecture in the table: how many does the gate refuse? `make healthy` prints the table.

Networks are trained for six short epochs, with which every one learns its four classes. Not a test: it takes the
better part of an hour on two cores. Usage: healthy.py [KINDS] [ARCH...], with kinds like onnx-fp16,openvino-int8
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from export import export
from lfdeploy.artifact import read
from lfdeploy.config import ExportConfig, TrainConfig
from lfdeploy.errors import LfdeployError
from lfdeploy.models import ARCHITECTURES
from training import train


def write_pictures(path: Path) -> None:
    """Four classes that differ by colour and by the direction of a ramp, 48 px, 640 for training, 400 to test."""
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


def main() -> None:
    kinds = (sys.argv[1] if len(sys.argv) > 1 else "onnx-fp32,onnx-fp16,onnx-int8,openvino-int8").split(",")
    wanted = sys.argv[2:] or list(ARCHITECTURES)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_pictures(place / "data.npz")
        for arch in wanted:
            config = TrainConfig(
                data=str(place / "data.npz"), arch=arch, peers=1, method="independent", epochs=6, lr=0.01, batch_size=32,
                image_size=32 if ARCHITECTURES[arch].largest == 64 else 48,
            )  # fmt: skip
            run = train(config, name=arch, runs=place / "runs")
            for kind in kinds:
                format, precision = kind.split("-")
                try:
                    made = export(ExportConfig(peer=0, format=format, precision=precision), run)[0]
                    found = made.manifest["parity"]["statistics"]
                    said = f"{made.verdict:<10} difference {found['max_difference']:.1e}  agreement {found['agreement']:.2f} %"
                except LfdeployError as error:
                    failed = run.artifacts / "quarantine" / f"peer0-{kind}"
                    found = read(failed).manifest["accuracy"] if (failed / "manifest.json").exists() else None
                    accuracy = f" (top-1 {found['top1_reference']:.1f} %)" if found else ""
                    said = f"REFUSED    {str(error).split(';')[0].split(' failed at ')[-1]}{accuracy}"
                rows.append((arch, kind, said))
                print(f"{arch:<20} {kind:<14} {said}", flush=True)
            shutil.rmtree(run.path)
    for kind in kinds:
        of = [said for _, k, said in rows if k == kind]
        print(f"{kind}: {len(of) - sum('REFUSED' in said for said in of)} of {len(of)} healthy exports pass")


if __name__ == "__main__":
    main()
