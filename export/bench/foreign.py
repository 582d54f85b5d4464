"""An ONNX file of another exporter, opened so that it can be timed: which pictures it takes is read from
its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.artifact import read
from lfdeploy.backends import Source
from lfdeploy.backends.onnxruntime import OnnxSession
from lfdeploy.errors import LfdeployError

TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
ANY_BATCH = (1, 1 << 30)


def is_foreign(given: str) -> bool:
    """A .onnx file that is not the model file of the artifact directory it lies in, if it lies in one."""
    path = Path(given)
    if path.suffix != ".onnx" or not path.is_file():
        return False
    return not (path.parent / "manifest.json").is_file() or read(path.parent).file.name != path.name


@dataclass(frozen=True)
class ForeignFile:
    """An open file. ``shape`` is (3, H, W) or (H, W, 3), ``batches`` the least and the largest batch,
    ``bytes`` with external data.
    """

    path: Path
    session: OnnxSession
    input: str
    dtype: Any
    shape: tuple[int, ...]
    batches: tuple[int, int]
    bytes: int

    def feed(self, batch: int) -> NDArray[Any]:
        """Random pictures as the file takes them: bytes, or standard normal floats."""
        random = np.random.default_rng(0)
        if self.dtype == np.uint8:
            return random.integers(0, 256, (batch, *self.shape), dtype=np.uint8)
        return random.standard_normal((batch, *self.shape)).astype(self.dtype)

    def __call__(self, images: NDArray[Any]) -> None:
        """Compute all outputs and drop them. Raises `LfdeployError` where onnxruntime fails."""
        try:
            self.session.session.run(None, {self.input: images})
        except Exception as error:  # onnxruntime raises many kinds, all of them about this file
            raise LfdeployError(
                f"{self.path.name} fails at batch {len(images)}: {str(error).strip().splitlines()[0][:160]}"
            ) from None


def open_foreign(given: str, device: str, threads: int, size: int | None) -> ForeignFile:
    """Open it with onnxruntime.

    ``size`` is the side of the pictures where the file leaves height and width open.
    """
    path = Path(given)
    session = OnnxSession(Source(path, {}, None, threads), device)
    inputs = session.session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in TYPES or len(inputs[0].shape) != 4:
        told = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise LfdeployError(
            f"{path.name} cannot be measured: its input is {told}; it takes one batch of pictures (4 "
            "axes), uint8 or float."
        )
    batch, *rest = inputs[0].shape
    if 3 not in (rest[0], rest[2]):
        raise LfdeployError(
            f"{path.name} cannot be measured: in its input, {inputs[0].shape}, neither first nor last "
            "axis is 3 channels."
        )
    if size is None and not all(isinstance(side, int) for side in rest):
        raise LfdeployError(
            f"{path.name} leaves height and width open; name an artifact too, whose picture size it "
            "then gets."
        )
    shape = tuple(side if isinstance(side, int) else size or 0 for side in rest)
    batches = (batch, batch) if isinstance(batch, int) else ANY_BATCH
    return ForeignFile(path, session, inputs[0].name, TYPES[inputs[0].type], shape, batches, _bytes(path))


def _bytes(path: Path) -> int:
    """Size of the file and of the external data files its weights lie in."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    graph = onnx.load(path, load_external_data=False).graph
    beside = {ExternalDataInfo(tensor).location for tensor in graph.initializer if uses_external_data(tensor)}
    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in beside)))
