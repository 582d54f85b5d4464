"""A teacher that was trained before: a target of another run. It is never trained
here, and never saved here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lfdeploy.backends import Session
from lfdeploy.backends.base import in_chunks
from lfdeploy.models.backbone import Backbone
from training.parts.part import Nodes, Part


class GivenTeacher(Part):
    """Logits ``NAME`` (B, K) of normalised images, which it normalises anew by its own mean and deviation.

    A single network also gives ``NAME.mapS`` and ``NAME.vector``; a fused or mean target has logits alone.
    """

    saved = False

    def __init__(self, name: str, network: nn.Module, own: Sequence[Tensor], here: Sequence[Tensor]) -> None:
        super().__init__(name, ("view0",))
        self.network = network.requires_grad_(False)
        (mean, std), (mean_here, std_here) = own, here
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", (std_here / std).view(1, 3, 1, 1))
        self.register_buffer("shift", ((mean_here - mean) / std).view(1, 3, 1, 1))
        self.train()

    def train(self, mode: bool = True) -> GivenTeacher:
        """Always in eval mode."""
        nn.Module.train(self, False)
        return self

    def forward(self, images: Tensor) -> Nodes:
        """Logits, and the maps of a single network."""
        with torch.no_grad():
            x = images * self.scale.to(images.dtype) + self.shift.to(images.dtype)
            if not isinstance(self.network, Backbone):
                return {self.name: self.network(x)}
            maps = self.network.features(x)
            nodes = {self.name: self.network.head(maps[-1]), f"{self.name}.vector": maps[-1].mean((2, 3))}
            return nodes | {f"{self.name}.map{i}": each for i, each in enumerate(maps)}


class OpenedFile(nn.Module):
    """An artifact's file as a network: logits (B, K) of pictures (B, 3, S, S) in [0, 1], whole levels of 255.

    It computes on what its session is on, so that on a GPU every step waits for it.
    """

    def __init__(self, session: Session, most: int) -> None:
        super().__init__()
        self.session, self.most = session, most

    def forward(self, images: Tensor) -> Tensor:
        """Logits, at most ``most`` pictures at a time."""
        pixels = (images.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        logits = in_chunks(self.session, pixels.cpu().contiguous().numpy(), self.most)[0]
        return torch.from_numpy(logits).to(images.device)

    def __deepcopy__(self, memo: object) -> OpenedFile:
        """Itself: a session has no copy, and nothing in it changes."""
        return self
