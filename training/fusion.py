"""Middle layer fusion and its auxiliary teachers: training-only modules of LFMKD.

Reconstructed from the abstract of Hu et al. 2022 and from FFL's code; attention after CBAM (Woo et al. 2018),
SE (Hu et al. 2018) and ECA (Wang et al. 2020), heads after DKS (Sun et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfdeploy.models.backbone import pool_linear
from lfdeploy.models.cifar_resnet import group, initialise
from lfdeploy.models.fusion import Fusion, align


class SqueezeExcite(nn.Module):
    """Channel gate from the mean over the map: (B, C, H, W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 8)
        self.gate = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        gate: Tensor = self.gate(x.mean((2, 3)))
        return x * gate[:, :, None, None]


class EfficientChannelAttention(nn.Module):
    """Channel gate from a short convolution over neighbouring channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        gate = torch.sigmoid(self.conv(x.mean((2, 3))[:, None, :]))
        return x * gate[:, 0, :, None, None]


class CBAM(nn.Module):
    """A channel gate from mean and maximum through one shared MLP, then a spatial gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 8)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        # On CUDA the pooling's gradient is summed in no fixed order; amax's is not, but costs more on a CPU.
        peak = x.amax((2, 3)) if x.is_cuda else F.adaptive_max_pool2d(x, 1).flatten(1)
        gate = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(peak))
        x = x * gate[:, :, None, None]
        seen = torch.stack([x.max(1).values, x.mean(1)], dim=1).contiguous(memory_format=torch.channels_last)
        return x * torch.sigmoid(self.spatial(seen))


class SpatialEnergy(nn.Module):
    """A spatial gate without weights: where the map's energy, the mean of its squares, is above its mean over
    the places.

    The map is attention transfer's (Zagoruyko & Komodakis 2017, section 3.1); as a gate it is a choice
    made here.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        energy = x.pow(2).mean(1, keepdim=True)
        centred = energy - energy.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(centred / centred.pow(2).mean((2, 3), keepdim=True).add(1e-6).sqrt())


class Bilinear(nn.Module):
    """A gate for a fused map from the product of the peers' maps: sigmoid(W (W_1 F_1 * W_2 F_2 * ...)),
    all 1x1.

    After the factorised bilinear pooling of two networks (Lin et al. 2015); as a gate it is a choice
    made here.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.factors = nn.ModuleList(nn.Conv2d(count, width, 1, bias=False) for count in channels)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, maps: Sequence[Tensor], fused: Tensor) -> Tensor:
        """The gated fused map."""
        product = torch.ones_like(fused)
        for factor, each in zip(self.factors, align(maps), strict=True):
            product = product * factor(each)
        return fused * torch.sigmoid(self.out(product))


ATTENTION: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "se": SqueezeExcite,
    "eca": EfficientChannelAttention,
    "cbam": CBAM,
    "at": SpatialEnergy,
}


def auxiliary_head(
    kind: str, channels: int, widths: Sequence[int], blocks: Sequence[int], classes: int
) -> nn.Module:
    """From a middle map (B, channels, H, W) to logits (B, K), with one downsampling group per
    remaining stage.

    ``continue``: residual groups as wide as the backbone's remaining stages; of two, the last has half the
    blocks. ``dks``: the same, a single remaining group twice as wide. ``lite``: depthwise-separable strides.
    ``gap``: pooling and a linear layer alone.
    """
    if kind == "gap":
        return pool_linear(channels, classes)
    layers: list[nn.Module] = []
    for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        if kind == "lite":
            layers += [
                nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False),
                nn.BatchNorm2d(channels),
            ]
            layers += [nn.ReLU(), nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        else:
            width = 2 * width if kind == "dks" and len(widths) == 1 else width
            last_of_many = len(widths) > 1 and index == len(widths) - 1
            layers.append(group(channels, width, (count + 1) // 2 if last_of_many else count, 2))
        channels = width
    head = nn.Sequential(*layers, pool_linear(channels, classes))
    initialise(head)
    return head


class AuxiliaryTeacher(nn.Module):
    """A middle fusion with attention and its head: the peers' maps at one depth to (logits, fused map)."""

    def __init__(self, channels: Sequence[int], fuse: str, attn: str, attn_pos: str, head: nn.Module) -> None:
        super().__init__()
        self.channels, self.place = list(channels), attn_pos
        self.fusion = Fusion(channels, fuse)
        self.attention: nn.Module
        if attn == "bilinear":
            self.attention = Bilinear(channels, self.fusion.out_channels)
        elif attn_pos == "peer":
            self.attention = nn.ModuleList(ATTENTION[attn](count) for count in channels)
        else:
            self.attention = ATTENTION[attn](
                sum(channels) if attn_pos == "concat" else self.fusion.out_channels
            )
        self.head = head

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the map W^s (B, C, H, W) that they were read from."""
        seen = self.fused(maps)
        return self.head(seen), seen

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """The map W^s (B, C, H, W)."""
        seen: Tensor
        if isinstance(self.attention, Bilinear):
            seen = self.attention(maps, self.fusion(maps))
        elif isinstance(self.attention, nn.ModuleList):
            seen = self.fusion([gate(each) for gate, each in zip(self.attention, maps, strict=True)])
        elif self.place == "concat":
            gated: Tensor = self.attention(torch.cat(align(maps), dim=1))
            seen = self.fusion(torch.split(gated, self.channels, dim=1))
        else:
            seen = self.attention(self.fusion(maps))
        return seen
