"""Batches of one split, augmented on the device. What an epoch draws depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lfdeploy.data import Files, Split
from training.augment import crop_flip

CHUNK = 1 << 20  # pixels that are summed at a time


@dataclass(frozen=True)
class Augment:
    """How training pictures are varied: padding in pixels (0: no crop) and mirroring."""

    pad: int
    flip: bool


class Batches:
    """Shuffled, augmented batches: uint8 (B, H, W, 3) and labels (B,), on the device.

    Pictures in memory move to the device once. Pictures on disk are decoded one batch ahead. A last, smaller
    batch is left out, so that all steps are alike; each epoch leaves out others.
    """

    def __init__(self, split: Split, batch_size: int, augment: Augment, seed: int, device: str) -> None:
        self.files = split.images if isinstance(split.images, Files) else None
        self.images = None if self.files else torch.from_numpy(np.ascontiguousarray(split.images)).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.batch_size, self.augment, self.seed, self.device = batch_size, augment, seed, device
        self.steps = max(1, len(split) // batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from step ``start`` on."""
        random = torch.Generator().manual_seed((self.seed << 20) + epoch)
        count = len(self.labels)
        order = torch.randperm(count, generator=random)
        offsets = torch.randint(0, 2 * self.augment.pad + 1, (count, 2), generator=random)
        flips = torch.rand(count, generator=random) < (0.5 if self.augment.flip else -1.0)
        spans = [slice(s * self.batch_size, (s + 1) * self.batch_size) for s in range(start, self.steps)]
        order_here, offsets, flips = order.to(self.device), offsets.to(self.device), flips.to(self.device)
        if self.images is not None:
            for span in spans:
                index = order_here[span]
                x = crop_flip(self.images, index, offsets[span], flips[span], self.augment.pad)
                yield x, self.labels[index]
            return
        assert self.files is not None
        files = self.files
        with ThreadPoolExecutor(1) as ahead:
            pending = [ahead.submit(files.__getitem__, order[span].numpy()) for span in spans[:1]]
            for number, span in enumerate(spans):
                pixels = torch.from_numpy(pending.pop().result()).to(self.device)
                pending += [ahead.submit(files.__getitem__, order[s].numpy()) for s in spans[number + 1 : number + 2]]
                here = torch.arange(len(pixels), device=self.device)
                x = crop_flip(pixels, here, offsets[span], flips[span], self.augment.pad)
                yield x, self.labels[order_here[span]]


def pixel_statistics(split: Split, most: int = 20_000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel in [0, 1], over at most that many pictures, to four decimals.

    Sums are of whole numbers, so they are exact in any order; few pictures stand in memory beside the split.
    """
    step = max(1, len(split) // most)
    blocks = [np.arange(start, min(start + 1024, len(split)), step) for start in range(0, len(split), 1024)]
    chosen = np.concatenate(blocks)
    side = split.images[:1].shape[1]
    few = max(1, CHUNK // (side * side))
    total, squares, pixels = np.zeros(3, np.uint64), np.zeros(3, np.uint64), 0
    for start in range(0, len(chosen), few):
        x = split.images[chosen[start : start + few]].reshape(-1, 3).astype(np.uint32)
        total += x.sum(0, dtype=np.uint64)
        squares += (x * x).sum(0, dtype=np.uint64)
        pixels += len(x)
    mean = total / pixels / 255
    std = np.sqrt(np.maximum(squares / pixels / 255**2 - mean**2, 1e-4))
    return [round(float(m), 4) for m in mean], [round(float(s), 4) for s in std]
