"""A torch.export program taken apart as far as its numbers go; it is fp32 and rounds nothing, so that its
answers say the rest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.independent.float_onnx import Constant, Range
from lfdeploy.backends.torch_export import read_program


class ProgramFile:
    """A parsed .pt2. ``constants`` by name; there are no ranges."""

    def __init__(self, path: Path) -> None:
        program = read_program(path)[0]
        tensors = {**program.state_dict, **program.constants}
        self.faults: list[str] = []
        self.ranges: dict[str, Range] = {}
        self.constants = {
            name: Constant(
                str(tensor.dtype).replace("torch.float32", "fp32"),
                tensor.detach().cpu().double().numpy(),
            )
            for name, tensor in tensors.items()
            if tensor.is_floating_point() and np.prod(tensor.shape) > 0
        }
