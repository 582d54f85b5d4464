"""Augmentation against numpy, the draws of an epoch, and the learning rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lfdeploy.data import Split
from training.augment import Augment, crop_flip, normalise
from training.batches import Batches, pixel_statistics
from training.schedule import learning_rate


def pictures(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def split(count: int, side: int = 8) -> Split:
    return Split(pictures(count, side, side), np.arange(count, dtype=np.int64), "digest")


@pytest.mark.parametrize(("height", "width", "pad"), [(8, 8, 1), (8, 8, 4), (7, 5, 3), (16, 9, 0)])
def test_crop_flip_is_pad_crop_flip(height: int, width: int, pad: int) -> None:
    images = pictures(5, height, width)
    corners = [(r, c) for r in range(2 * pad + 1) for c in range(2 * pad + 1)]
    index = np.arange(2 * len(corners)) % 5
    offsets = np.array(corners * 2)
    flips = np.arange(2 * len(corners)) >= len(corners)
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    found = crop_flip(*(torch.from_numpy(a) for a in (images, index, offsets, flips)), pad).numpy()
    assert found.dtype == np.uint8
    for k, (i, (r, c), flip) in enumerate(zip(index, offsets, flips, strict=True)):
        crop = padded[i, r : r + height, c : c + width]
        assert np.array_equal(found[k], crop[:, ::-1] if flip else crop), (i, r, c, flip)


def test_crop_flip_leaves_its_input_alone() -> None:
    images = torch.from_numpy(pictures(3, 8, 8))
    before = images.clone()
    found = crop_flip(images, torch.arange(3), torch.full((3, 2), 2), torch.zeros(3, dtype=torch.bool), 2)
    assert torch.equal(found, images)
    found.zero_()
    assert torch.equal(images, before)


def test_normalise_is_scaling_then_statistics() -> None:
    images = pictures(4, 6, 6)
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    found = normalise(torch.from_numpy(images), torch.tensor(mean), torch.tensor(std))
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.abs(found.numpy() - expected).max() < 1e-12
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_pixel_statistics() -> None:
    part = split(40)
    mean, std = pixel_statistics(part)
    x = part.images / 255
    assert mean == [round(v, 4) for v in x.mean((0, 1, 2))]
    assert std == [round(v, 4) for v in x.std((0, 1, 2))]


def coordinates(count: int, side: int) -> Split:
    """Pictures that say of every pixel where it was: (row, column, 0)."""
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    one = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return Split(np.repeat(one[None], count, axis=0), np.arange(count, dtype=np.int64), "digest")


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


def test_offsets_and_flips_are_uniform() -> None:
    """Read off the pictures themselves; the bounds are the 99.9 % points of chi-square with 24 and 1 degrees
    of freedom.
    """
    side, pad, count = 9, 2, 5000
    drawn = list(Batches(coordinates(count, side), 100, Augment(pad, True), 3, "cpu").epoch(0))
    x, labels = torch.cat([b.views[0] for b in drawn]), torch.cat([b.labels for b in drawn])
    middle = side // 2
    corner, right = x[:, middle, middle].long(), x[:, middle, middle + 1].long()
    flips = right[:, 1] < corner[:, 1]
    rows, columns = corner[:, 0] - middle + pad, corner[:, 1] - middle + pad
    assert sorted(labels.tolist()) == list(range(count))
    assert rows.min() == columns.min() == 0
    assert rows.max() == columns.max() == 2 * pad
    assert chi_square(np.bincount((rows * 5 + columns).numpy(), minlength=25)) < 51.18
    assert chi_square(np.bincount(flips.numpy(), minlength=2)) < 10.83
    joint = np.bincount((flips * 25 + rows * 5 + columns).numpy(), minlength=50)
    assert chi_square(joint) < 85.35  # 49 degrees: corners and flips do not depend on each other


@pytest.mark.parametrize("augment", [Augment(0, False), Augment(2, False)])
def test_without_flips_nothing_is_mirrored(augment: Augment) -> None:
    (batch,) = Batches(coordinates(200, 9), 200, augment, 0, "cpu").epoch(0)
    (x,) = batch.views
    assert (x[:, 4, 5, 1] > x[:, 4, 4, 1]).all()
    if augment.pad == 0:
        assert torch.equal(x, torch.from_numpy(coordinates(200, 9).images))


@pytest.mark.parametrize("start", [0, 1, 3, 6])
def test_the_tail_of_an_epoch_is_that_of_the_whole(start: int) -> None:
    batches = Batches(split(50), 8, Augment(2, True), 5, "cpu")
    assert batches.steps == 6
    whole, tail = list(batches.epoch(4)), list(batches.epoch(4, start))
    assert len(whole) == 6
    assert len(tail) == 6 - start
    for one, other in zip(whole[start:], tail, strict=True):
        assert torch.equal(one.views[0], other.views[0])
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.index, other.index)


def test_an_epoch_shows_each_picture_at_most_once_and_epochs_differ() -> None:
    batches = Batches(split(50), 8, Augment(2, True), 5, "cpu")
    orders = [torch.cat([b.labels for b in batches.epoch(e)]).tolist() for e in range(3)]
    for order in orders:
        assert len(order) == len(set(order)) == 48
    assert orders[0] != orders[1] != orders[2]
    assert set(orders[0]) != set(orders[1])
    again = Batches(split(50), 8, Augment(2, True), 5, "cpu")
    assert torch.cat([b.labels for b in again.epoch(1)]).tolist() == orders[1]
    other = Batches(split(50), 8, Augment(2, True), 6, "cpu")
    assert torch.cat([b.labels for b in other.epoch(1)]).tolist() != orders[1]


def test_labels_stay_with_their_pictures() -> None:
    part = split(50)
    for batch in Batches(part, 8, Augment(0, False), 5, "cpu").epoch(0):
        (x,), y = batch.views, batch.labels
        assert np.array_equal(x.numpy(), part.images[y.numpy()])


def test_draws_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(Batches(split(50), 8, Augment(2, True), 5, "cpu").epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_cosine() -> None:
    assert learning_rate("cosine", 0.2, 0.0, 0.0) == pytest.approx(0.2)
    assert learning_rate("cosine", 0.2, 0.0, 0.5) == pytest.approx(0.1)
    assert learning_rate("cosine", 0.2, 0.0, 1.0) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate("cosine", 0.2, 0.1, 0.1) == pytest.approx(0.2)
    assert learning_rate("cosine", 0.2, 0.1, 0.4) == pytest.approx(0.1 * (1 + math.cos(math.pi / 3)))
    rates = [learning_rate("cosine", 0.2, 0.1, k / 100) for k in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1), (149, 1), (150, 0.1), (224, 0.1), (225, 0.01), (299, 0.01)]
)
def test_step_schedule_is_that_of_300_epochs(epoch: int, factor: float) -> None:
    assert learning_rate("step", 0.1, 0.0, epoch / 300) == pytest.approx(0.1 * factor)


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_warmup_rises_linearly_from_above_zero(schedule: str) -> None:
    rates = [learning_rate(schedule, 0.1, 0.1, k / 100) for k in range(10)]
    assert rates[0] > 0
    assert rates[1:] == pytest.approx([0.1 * k / 10 for k in range(1, 10)])
    assert learning_rate(schedule, 0.1, 0.1, 0.1) == pytest.approx(0.1)


def test_views_show_the_same_pictures_each_cropped_by_itself() -> None:
    one = list(Batches(split(50), 8, Augment(2, True), 5, "cpu").epoch(3))
    three = list(Batches(split(50), 8, Augment(2, True), 5, "cpu", views=3).epoch(3))
    for alone, together in zip(one, three, strict=True):
        assert torch.equal(alone.index, together.index)
        # a method with more views changes nothing for the first
        assert torch.equal(alone.views[0], together.views[0])
        assert len(together.views) == 3
        assert not torch.equal(together.views[0], together.views[1])
        assert not torch.equal(together.views[1], together.views[2])
    plain = list(Batches(split(50), 8, Augment(0, False), 5, "cpu", views=2).epoch(3))
    assert all(torch.equal(*batch.views) for batch in plain)
