"""Batches of one split, augmented on the device. What an epoch draws depends on the
seed and the epoch alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfdeploy.data import Files, Split
from training.augment import Augment, augmented, drawn, normalise
from training.mixup import mixed, mixes
from training.parts import Nodes

CHUNK = 1 << 20  # pixels that are summed at a time


@dataclass(frozen=True)
class Batch:
    """``views``: uint8 (B, H, W, 3), each augmented by itself; ``labels`` (B,) and ``index`` (B,) into the
    split. On the device. Of mixed pictures ``share`` is how much of the first there is in each.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    index: Tensor
    share: float | None = None

    def given(self, mean: Tensor, std: Tensor) -> Nodes:
        """The named tensors that a step begins with, images normalised."""
        views = {f"view{i}": normalise(view, mean, std) for i, view in enumerate(self.views)}
        nodes = views | {"labels": self.labels, "index": self.index}
        if self.share is not None:
            share = torch.full((), self.share, dtype=mean.dtype, device=mean.device)
            nodes |= {"other_labels": self.labels.flip(0), "share": share}
        return nodes


class Batches:
    """Shuffled, augmented batches on the device, with as many views of the pictures as asked for.

    ``steps``: of an epoch, where it is not to go over all pictures. ``balanced``: each picture may be drawn
    again, and all classes come equally often. Pictures in memory move to the device once; those on disk are
    decoded one batch ahead. A last, smaller batch is left out, so that all steps are alike; each epoch leaves
    out others. ``rows`` of r and n: of each batch only every n-th picture from the r-th on, as one of n
    processes.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: str,
        views: int = 1,
        steps: int | None = None,
        balanced: bool = False,
        rows: tuple[int, int] = (0, 1),
    ) -> None:
        self.files = split.images if isinstance(split.images, Files) else None
        self.images = None if self.files else torch.from_numpy(np.ascontiguousarray(split.images)).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.batch_size, self.augment, self.seed, self.device = batch_size, augment, seed, device
        self.views, self.rows = views, rows
        self.chances = torch.from_numpy(class_weights(split.labels)[split.labels]) if balanced else None
        self.size = split.images.size if isinstance(split.images, Files) else split.images.shape[1]
        self.whole = max(1, len(split) // batch_size)
        self.steps = min(steps or self.whole, self.whole)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step ``start`` on."""
        random = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        if self.chances is None:
            order = torch.randperm(len(self.labels), generator=random)
        else:
            order = torch.multinomial(self.chances, len(self.labels), replacement=True, generator=random)
        seeds = [epoch_seed(self.seed, epoch, view) for view in range(1, self.views)]
        generators = [random, *(torch.Generator().manual_seed(seed) for seed in seeds)]
        draws = [drawn(self.augment, len(order), self.size, each).to(self.device) for each in generators]
        order_here = order.to(self.device)
        (first, of), size = self.rows, self.batch_size
        spans = [slice(s * size + first, (s + 1) * size, of) for s in range(start, self.steps)]
        how = mixes(self.augment, self.steps, epoch_seed(self.seed, epoch, self.views))[start:]
        every = zip(spans, how, self._pixels(order, order_here, spans), strict=True)
        for span, mix, (pixels, places) in every:
            views = [augmented(pixels, places, draw, span, self.augment) for draw in draws]
            share = None
            if mix is not None:
                both = [mixed(view, mix) for view in views]
                views, share = [view for view, _ in both], both[0][1]
            yield Batch(tuple(views), self.labels[order_here[span]], order_here[span], share)

    def _pixels(
        self, order: Tensor, order_here: Tensor, spans: Sequence[slice]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each span the pictures at hand, and which of them they are: all in memory, or those
        just decoded.
        """
        if self.files is None:
            assert self.images is not None
            for span in spans:
                yield self.images, order_here[span]
            return
        files = self.files
        with ThreadPoolExecutor(1) as ahead:
            pending = [ahead.submit(files.__getitem__, order[span].numpy()) for span in spans[:1]]
            for number in range(len(spans)):
                pixels = torch.from_numpy(pending.pop().result()).to(self.device)
                pending += [
                    ahead.submit(files.__getitem__, order[s].numpy()) for s in spans[number + 1 : number + 2]
                ]
                yield pixels, torch.arange(len(pixels), device=self.device)


def class_weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """A weight for each class (K,), inverse to how often it occurs; their mean over all labels (N,) is 1.

    A class that has no picture has weight 0.
    """
    counts = np.bincount(labels)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 0.0)


def epoch_seed(seed: int, epoch: int, view: int = 0) -> int:
    """Of what one view of an epoch draws.

    PyTorch's generator on the CPU reads 32 bits of a seed, so the others are mixed in.
    """
    whole = (seed << 20) + epoch
    return (whole ^ (whole >> 32) * 0x9E3779B1 ^ view * 0x85EBCA6B) & 0xFFFFFFFF


def pixel_statistics(split: Split, most: int = 20_000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel in [0, 1], to four decimals, over every n-th picture with n = N
    // ``most``: fewer than twice so many.

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
