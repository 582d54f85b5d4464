"""Batches and pixel statistics: exact in any order, and in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lfdeploy.config import LARGEST_SEED
from lfdeploy.data import Split
from training.batches import Augment, Batches, epoch_seed, pixel_statistics


def split(count: int, size: int, top: int = 256) -> Split:
    pixels = np.random.default_rng(count).integers(0, top, (count, size, size, 3), dtype=np.uint8)
    return Split(pixels, np.zeros(count, np.int64), "")


@pytest.mark.parametrize(("count", "most"), [(1, 9000), (700, 9000), (2500, 9000), (2500, 700), (3000, 1000)])
def test_statistics_are_those_of_the_definition(count: int, most: int) -> None:
    pictures = split(count, 12, 90)
    step = max(1, count // most)
    chosen = np.concatenate([pictures.images[s : s + 1024][::step] for s in range(0, count, 1024)])
    pixels = chosen.reshape(-1, 3) / 255
    assert pixel_statistics(pictures, most) == (
        pixels.mean(0).round(4).tolist(),
        pixels.std(0).round(4).tolist(),
    )


def test_statistics_of_one_colour_have_a_floor() -> None:
    flat = Split(np.full((4, 8, 8, 3), 51, np.uint8), np.zeros(4, np.int64), "")
    assert pixel_statistics(flat) == ([0.2] * 3, [0.01] * 3)


def test_statistics_take_little_memory_beside_the_pictures() -> None:
    pictures = split(600, 160)
    assert isinstance(pictures.images, np.ndarray)
    tracemalloc.start()
    pixel_statistics(pictures)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6 < 4 * pictures.images.nbytes


def test_the_largest_seed_draws_batches() -> None:
    batches = Batches(split(8, 8), 4, Augment(1, True), LARGEST_SEED, "cpu")
    assert len(list(batches.epoch(999))) == 2


def test_no_two_small_or_large_seeds_draw_alike() -> None:
    """A seed above 2**12 lies outside of what the generator reads of (seed << 20) + epoch."""
    seeds = [
        epoch_seed(seed, epoch, view)
        for seed in (0, 1, 4095, 4096, 8192, LARGEST_SEED)
        for epoch in (0, 1, 299)
        for view in range(4)
    ]
    assert len(set(seeds)) == len(seeds)
    assert epoch_seed(7, 3) == (7 << 20) + 3  # as ever
    orders = [
        next(Batches(split(8, 8), 8, Augment(1, True), seed, "cpu").epoch(0)).index.tolist()
        for seed in (0, 4096)
    ]
    assert orders[0] != orders[1]
