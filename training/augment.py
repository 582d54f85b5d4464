"""Augmentation of whole batches of uint8 pixels on the device: crops of padded pictures, as one gather, for
small ones; for photos random areas resized, as two products of matrices, and colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow


@dataclass(frozen=True)
class Augment:
    """How training pictures are varied: padding in pixels (0: no crop) and mirroring; or for photos, with a
    ``side``, random areas of at least the share ``area`` resized to it, and colours changed by ``colour``.
    ``erase`` of the pictures lose a rectangle; ``mixup`` and ``cutmix``: see `training.mixup`; ``policy``:
    see `changed`.
    """

    pad: int
    flip: bool
    side: int = 0
    area: float = 0.35
    colour: float = 0.2
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    policy: str = "none"


@dataclass(frozen=True)
class Draw:
    """What one view of an epoch draws for every place of it: flips (N,), and offsets (N, 2) of the crop, or
    boxes (N, 4) and colours (N, 3) of a photo; and holes (N, 7): top, left, bottom, right, and a colour;
    and ``seeds`` (N,) of a policy.
    """

    flips: Tensor
    offsets: Tensor | None = None
    boxes: Tensor | None = None
    colours: Tensor | None = None
    holes: Tensor | None = None
    seeds: Tensor | None = None

    def to(self, device: str) -> Draw:
        """The same on a device."""
        there = {name: None if each is None else each.to(device) for name, each in vars(self).items()}
        return Draw(**there | {"seeds": self.seeds})  # type: ignore[arg-type]  # seeds are read by the CPU


def drawn(augment: Augment, count: int, size: int, random: torch.Generator) -> Draw:
    """Random numbers for ``count`` pictures of ``size`` pixels a side."""
    offsets, boxes, colours = None, None, None
    if augment.side:
        boxes = random_boxes(count, size, augment.area, random)
        colours = 1 + augment.colour * (2 * torch.rand((count, 3), generator=random) - 1)
    else:
        offsets = torch.randint(0, 2 * augment.pad + 1, (count, 2), generator=random)
    flips = torch.rand(count, generator=random) < (0.5 if augment.flip else -1.0)
    holes = random_holes(count, augment.side or size, augment.erase, random) if augment.erase else None
    seeds = torch.randint(0, 2**31, (count,), generator=random) if augment.policy != "none" else None
    return Draw(flips, offsets, boxes, colours, holes, seeds)


def augmented(images: Tensor, index: Tensor, draw: Draw, span: slice, augment: Augment) -> Tensor:
    """The pictures ``index`` (B,) of uint8 (N, H, W, C), varied as the places ``span`` of an epoch drew."""
    if draw.offsets is not None:
        pixels = crop_flip(images, index, draw.offsets[span], draw.flips[span], augment.pad)
    else:
        assert draw.boxes is not None and draw.colours is not None
        pixels = resized(images[index], draw.boxes[span], draw.flips[span], augment.side)
        if augment.colour:
            pixels = recoloured(pixels, draw.colours[span])
        pixels = pixels.round_().clamp_(0, 255).to(torch.uint8)
    if draw.seeds is not None:
        pixels = changed(pixels, draw.seeds[span], augment.policy)
    return pixels if draw.holes is None else erased(pixels, draw.holes[span])


def random_boxes(count: int, size: int, area: float, random: torch.Generator) -> Tensor:
    """Boxes (N, 4), top, left, height, width in pixels, of RandomResizedCrop (Szegedy et al. 2015): the area
    uniform from the share ``area`` to 1, the logarithm of the ratio of the sides uniform from 3/4 to 4/3.

    A side that would be longer than the picture's is cut to it, where torchvision draws again.
    """
    share = area + (1 - area) * torch.rand(count, generator=random)
    ratio = torch.exp(math.log(4 / 3) * (2 * torch.rand(count, generator=random) - 1))
    sides = size * torch.stack([(share / ratio).sqrt(), (share * ratio).sqrt()], 1).clamp_max(1)
    corners = torch.rand((count, 2), generator=random) * (size - sides)
    return torch.cat([corners, sides], 1)


def resized(images: Tensor, boxes: Tensor, flips: Tensor, side: int) -> Tensor:
    """The boxes (B, 4) of uint8 (B, H, W, C) resized to ``side``, bilinear with antialias as Pillow's; those
    that ``flips`` (B,) marks mirrored. Returns float (B, side, side, C).
    """
    batch, height, width, channels = images.shape
    rows = _weights(boxes[:, 0], boxes[:, 2], height, side)
    columns = _weights(boxes[:, 1], boxes[:, 3], width, side)
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    x = torch.bmm(rows, images.to(rows.dtype).reshape(batch, height, width * channels))
    x = x.view(batch, side, width, channels).transpose(1, 2).reshape(batch, width, side * channels)
    return torch.bmm(columns, x).view(batch, side, side, channels).transpose(1, 2)


def _weights(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """Of every source pixel in every new one, (B, side, size), for one axis of boxes: a triangle as wide as
    what becomes one pixel.
    """
    step = (length / side)[:, None, None]
    new = torch.arange(side, device=start.device)[:, None] + 0.5
    old = torch.arange(size, device=start.device) + 0.5
    weights = (1 - (old - start[:, None, None] - new * step).abs() / step.clamp_min(1)).clamp_min(0)
    return weights / weights.sum(2, keepdim=True)


def recoloured(pixels: Tensor, factors: Tensor) -> Tensor:
    """Float (B, H, W, 3) with brightness, contrast and saturation multiplied by factors (B, 3)."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    weights = torch.tensor(GREY, device=pixels.device)
    pixels = pixels * brightness
    mean = (pixels @ weights).mean((1, 2))[:, None, None, None]
    pixels = mean + (pixels - mean) * contrast
    grey = (pixels @ weights)[..., None]
    return grey + (pixels - grey) * saturation


def changed(pixels: Tensor, seeds: Tensor, policy: str) -> Tensor:
    """uint8 (B, H, W, 3), each picture by torchvision's TrivialAugmentWide (Mueller and Hutter 2021) or
    RandAugment (Cubuk et al. 2020), whose random numbers follow from the picture's own seed (B,).
    """
    from torchvision.transforms import v2

    change = v2.TrivialAugmentWide() if policy == "trivial" else v2.RandAugment()
    pictures = []
    with torch.random.fork_rng(devices=[]):
        for picture, seed in zip(pixels.permute(0, 3, 1, 2), seeds.tolist(), strict=True):
            torch.default_generator.manual_seed(seed)
            pictures.append(change(picture))
    return torch.stack(pictures).permute(0, 2, 3, 1).contiguous()


def random_holes(count: int, size: int, share: float, random: torch.Generator) -> Tensor:
    """Holes (N, 7) as `erased` takes them, empty but for a ``share`` of the pictures (Zhong et al. 2020): 2
    to 33 % of the area, the logarithm of the ratio of the sides uniform from 0.3 to 3.3, one random colour.
    """
    some = torch.rand(count, generator=random) < share
    area = 0.02 + 0.31 * torch.rand(count, generator=random)
    ratio = torch.exp(math.log(3.3) * (2 * torch.rand(count, generator=random) - 1))
    sides = (size * torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)).clamp_max(size)
    corners = torch.rand((count, 2), generator=random) * (size - sides)
    ends = torch.where(some[:, None], corners + sides, corners)
    colours = 256 * torch.rand((count, 3), generator=random)
    return torch.cat([corners, ends, colours], 1)


def erased(pixels: Tensor, holes: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) with the rectangles of ``holes`` (B, 7) in one colour each."""
    rows = torch.arange(pixels.shape[1], device=pixels.device)[None] + 0.5
    columns = torch.arange(pixels.shape[2], device=pixels.device)[None] + 0.5
    top, left, bottom, right = (holes[:, i : i + 1] for i in range(4))
    inside = ((rows > top) & (rows < bottom))[:, :, None] & ((columns > left) & (columns < right))[:, None]
    colours = holes[:, None, None, 4:].clamp_max(255).to(torch.uint8)
    return torch.where(inside[..., None], colours, pixels)


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
