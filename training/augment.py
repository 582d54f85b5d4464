"""Augmentation of whole batches of uint8 pixels, as one gather: pad by reflection, crop, flip."""

from __future__ import annotations

import torch
from torch import Tensor


def crop_flip(images: Tensor, index: Tensor, offsets: Tensor, flips: Tensor, pad: int) -> Tensor:
    """Crops of the pictures ``index`` (B,) of uint8 (N, H, W, C), each from its own offset in its
    padded self.

    ``offsets`` (B, 2) in [0, 2 pad] are the crop's corner (row, column) in the picture padded by ``pad`` on
    each side by reflection; ``flips`` (B,) bool mirror left to right. Nothing is padded in memory: rows and
    columns are reflected as indices. Returns uint8 (B, H, W, C).
    """
    height, width = images.shape[1:3]
    rows = _reflect(torch.arange(height, device=index.device) + offsets[:, :1] - pad, height)
    columns = torch.arange(width, device=index.device).expand(len(index), width)
    columns = torch.where(flips[:, None], width - 1 - columns, columns)
    columns = _reflect(columns + offsets[:, 1:] - pad, width)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(position: Tensor, length: int) -> Tensor:
    position = position.abs()
    return torch.where(position >= length, 2 * (length - 1) - position, position)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in channels_last memory: (x / 255 - mean) / std."""
    scaled = images.to(mean.dtype).mul_(1 / (255 * std)).sub_(mean / std)
    return scaled.permute(0, 3, 1, 2)
