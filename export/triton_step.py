"""A step of a Triton ensemble: picture files to the model's pixels, by the same function as everywhere else.

`lfdeploy export --triton DIR --triton-pictures` copies this file as it is to DIR/NAME-decode/1/model.py, and
Triton's Python backend runs it there. It needs lfdeploy's own code, NumPy and Pillow, nothing else:
``pip install --no-deps`` of its wheel or sources, and ``pip install numpy pillow``.
Source: github.com/triton-inference-server/python_backend, README.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from lfdeploy.errors import LfdeployError
from lfdeploy.images import RESIZE, prepare


class TritonPythonModel:
    """``encoded`` BYTES (N, 1), a file each, to ``images`` UINT8 (N, size, size, 3)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the size; raise where the model wants its pictures fitted by another rule than this one."""
        told = json.loads(args["model_config"])["parameters"]
        self.size = int(told["size"]["string_value"])
        if json.loads(told["resize"]["string_value"]) != RESIZE:
            raise RuntimeError("the model was exported by an lfdeploy that fits pictures by another rule")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """An answer for each request; one with a file that is no readable picture gets a sentence."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        files = pb_utils.get_input_tensor_by_name(request, "encoded").as_numpy().reshape(-1)
        pixels = np.empty((len(files), self.size, self.size, 3), np.uint8)
        for row, blob in enumerate(files):
            try:
                pixels[row] = prepare(bytes(blob), self.size)
            except LfdeployError as error:
                where = f"picture {row} of {len(files)}: " if len(files) > 1 else ""
                refused = pb_utils.TritonError(f"{where}{error}")
                return pb_utils.InferenceResponse(output_tensors=[], error=refused)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("images", pixels)])
