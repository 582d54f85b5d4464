"""What gets shipped: a target of a run as one module from uint8 pixels to logits and probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lfdeploy.models import create
from lfdeploy.models.backbone import Backbone
from lfdeploy.models.fusion import Ensemble, Fused, FusedHead
from lfdeploy.models.targets import NETWORK, Network, layout_of


class Classifier(nn.Module):
    """uint8 pixels (B, H, W, 3) to fp32 logits (B, K) and probabilities (B, K).

    Scaling and normalisation are inside and always fp32: ``x * scale + shift`` with scale = 1 / (255 std) and
    shift = -mean / std per channel. ``dtype`` is that of the network in between. Probabilities are
    softmax(logits / T) where ``temperature`` is a T, softmax(logits) where it is None; the logits are the
    network's own either way.
    """

    outputs: tuple[str, ...] = ("logits", "probabilities")

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", (1 / (255 * s)).float().view(1, 3, 1, 1))
        self.register_buffer("shift", (-m / s).float().view(1, 3, 1, 1))
        self.dtype = torch.float32
        self.temperature: float | None = None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(logits, probabilities)."""
        logits = self.network(self.normalised(images)).float()
        return logits, self.softmax(logits)

    def normalised(self, images: Tensor) -> Tensor:
        """What the network reads.

        The cast comes before the permutation: TensorRT accepts uint8 only into a cast.
        """
        x = images.float().permute(0, 3, 1, 2) * self.scale + self.shift
        return x.to(self.dtype)

    def softmax(self, logits: Tensor) -> Tensor:
        """Probabilities (B, K) of logits (B, K)."""
        return torch.softmax(logits if self.temperature is None else logits / self.temperature, dim=1)


def build_network(target: str, spec: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """One target's network in eval mode, from a run's spec.json and the tensors of its model.safetensors."""
    layout, classes = layout_of(spec), len(spec["classes"])
    row = layout[target]
    networks = [network_of(layout.networks[name], classes, weights) for name in row.networks]
    if row.kind == NETWORK:
        return networks[0].eval()
    if row.head is None:
        return Ensemble(networks).eval()
    head = FusedHead(list(row.head.channels), classes, row.head.operator)
    head.load_state_dict(_part(weights, row.head.weights))
    return Fused(networks, head).eval()


def network_of(row: Network, classes: int, weights: Mapping[str, Tensor]) -> Backbone:
    """One network with its weights."""
    network = create(row.arch, classes)
    network.load_state_dict(_part(weights, row.weights))
    return network


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
