"""What a change of the batch's size costs ONNX Runtime on CUDA, by how it searches for convolutions:
shapes.py FILE.onnx...

For each file and search: the median call at a constant size, and the median first call after another size,
in milliseconds.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

SEARCHES = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")
SIZES = (1, 32, 256)
ROUNDS, CALLS = 10, 50


def opened(file: Path, search: str) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = {"use_tf32": "0", "cudnn_conv_algo_search": search}
    return ort.InferenceSession(str(file), options, providers=[("CUDAExecutionProvider", given)])


def milliseconds(session: Any, pixels: np.ndarray) -> float:
    began = time.perf_counter()
    session.run(None, {session.get_inputs()[0].name: pixels})
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    ort.set_default_logger_severity(4)
    ort.preload_dlls()
    print(
        f"{torch.cuda.get_device_name()}, onnxruntime {ort.__version__}, cuDNN "
        f"{torch.backends.cudnn.version()}"
    )
    print("| file | search | batch | ms a call | ms the first call after another size |")
    print("| --- | --- | ---: | ---: | ---: |")
    for file in map(Path, sys.argv[1:]):
        for search in SEARCHES:
            session = opened(file, search)
            side = session.get_inputs()[0].shape[1]
            pixels = {
                n: np.random.default_rng(n).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
                for n in SIZES
            }
            first: dict[int, list[float]] = {n: [] for n in SIZES}
            steady: dict[int, list[float]] = {n: [] for n in SIZES}
            for number in range(ROUNDS + 1):
                for n in SIZES:
                    changed = milliseconds(session, pixels[n])
                    same = [milliseconds(session, pixels[n]) for _ in range(CALLS)]
                    if number:  # the first round sets up memory
                        first[n].append(changed)
                        steady[n] += same
            for n in SIZES:
                print(
                    f"| {file.parent.name} | {search} | {n} | {statistics.median(steady[n]):.3f} | "
                    f"{statistics.median(first[n]):.1f} |"
                )


main()
