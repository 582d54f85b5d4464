"""How long does an engine take to build? resnet18 at 224 px in every precision, by each TensorRT that can
build here.

`make engines` prints the table: whole process, as `lfdeploy export` runs it, five builds each. Weights are
untrained: build time depends on the graph alone. int8 is calibrated on noise, for the same reason.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import torch

from export.build.graph import in_precision, to_onnx
from export.build.quantize import SCHEMES, activations, with_ranges
from export.build.ranges import ranges, spreads
from lfdeploy.backends.base import PRECISIONS
from lfdeploy.backends.trt import MODULES, missing
from lfdeploy.backends.trt_build import build
from lfdeploy.models import create
from lfdeploy.models.deploy import Classifier

SIZE, PROFILE, BUILDS = 224, (1, 8, 64), 5


def source(precision: str) -> bytes:
    """The ONNX file that the engine is built from."""
    torch.manual_seed(0)
    classifier = Classifier(create("resnet18", 10), [0.5] * 3, [0.25] * 3).eval()
    blob = to_onnx(in_precision(classifier, precision, SIZE), SIZE, PROFILE, {})
    if precision != "int8":
        return blob
    model = onnx.load_from_string(blob)
    noise = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    found = spreads(model, activations(model.graph), iter([noise]))
    return with_ranges(blob, ranges(found, "minmax"), SCHEMES["trt"])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for package in MODULES:
            if missing(package):
                print(f"{package}: not measured, {missing(package)}")
                continue
            for precision in PRECISIONS:
                onnx_file, engine = Path(folder) / "source.onnx", Path(folder) / "model.engine"
                onnx_file.write_bytes(source(precision))
                seconds = []
                for _ in range(BUILDS):
                    start = time.perf_counter()
                    build(package, onnx_file, engine, PROFILE, precision)
                    seconds.append(time.perf_counter() - start)
                size = engine.stat().st_size / 1e6
                print(
                    (
                        f"{package} {precision}: median {statistics.median(seconds):.2f} s, most "
                        f"{max(seconds):.2f} s, {size:.1f} MB"
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
