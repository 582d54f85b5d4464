"""The PyTorch module replayed from CUDA graphs: what eager PyTorch reaches on a GPU without the cost of
launching kernels.
"""

from __future__ import annotations

import torch

from lfdeploy.backends.base import Floats, Source, checked
from lfdeploy.backends.pytorch import TorchSession
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels


class GraphSession(TorchSession):
    """A `TorchSession` whose kernels are recorded once per batch size. Needs a GPU."""

    backend = "cuda graph"

    def __init__(self, source: Source, device: str) -> None:
        super().__init__(source, device)
        self.recorded: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor, tuple[torch.Tensor, ...]]] = {}

    @torch.inference_mode()
    def named(self, images: Pixels) -> dict[str, Floats]:
        """Every output. Raises `LfdeployError` for a module that cannot be recorded."""
        given = torch.from_numpy(checked(images, self.manifest))
        if len(given) not in self.recorded:
            try:
                self.recorded[len(given)] = self._record(given)
            except RuntimeError as error:
                raise LfdeployError(
                    f"{self.backend} of batch {len(given)}: {str(error).strip().splitlines()[0]}"
                ) from None
        graph, pixels, found = self.recorded[len(given)]
        pixels.copy_(given)
        graph.replay()
        return {name: value.cpu().numpy() for name, value in zip(self.module.outputs, found, strict=True)}

    def _record(
        self, given: torch.Tensor
    ) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, tuple[torch.Tensor, ...]]:
        """The graph, its input (N, H, W, 3) and its outputs, all at fixed addresses."""
        pixels = given.to(self.device)
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose their algorithms and allocate, which a graph cannot hold
                self.module(pixels)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = self.module(pixels)
        return graph, pixels, tuple(found)
