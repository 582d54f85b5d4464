"""How photos are varied: areas against Pillow, colours against torchvision, and what an epoch draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from lfdeploy.data import Split
from training.augment import Augment, random_boxes, recoloured, resized
from training.batches import Batches

SIDE = 40
PHOTO = Augment(0, True, side=24)


def photos(count: int) -> np.ndarray:
    """Smooth in places and noisy in others, so that a wrong filter is seen."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:, : SIDE // 2] = np.linspace(0, 255, SIDE, dtype=np.uint8)[:, None]
    return pixels


def split(count: int) -> Split:
    return Split(photos(count), np.arange(count, dtype=np.int64), "digest")


@pytest.mark.parametrize("side", [12, 24, 40, 56])
def test_areas_are_resized_as_pillow_does(side: int) -> None:
    images = photos(30)
    boxes = random_boxes(30, SIDE, 0.2, torch.Generator().manual_seed(1))
    flips = torch.arange(30) % 2 == 1
    found = resized(torch.from_numpy(images), boxes, flips, side).round().numpy()
    for image, box, flip, seen in zip(images, boxes.tolist(), flips, found, strict=True):
        top, left, height, width = box
        area = (left, top, left + width, top + height)
        expected = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, box=area)
        expected = np.asarray(expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else expected)
        assert np.abs(seen - expected).max() <= 1  # Pillow rounds twice


def test_the_whole_picture_at_its_own_size_is_the_picture() -> None:
    images = torch.from_numpy(photos(3))
    boxes = torch.tensor([[0.0, 0.0, SIDE, SIDE]] * 3)
    plain = resized(images, boxes, torch.tensor([False, False, True]), SIDE)
    assert torch.equal(plain[:2], images[:2].float())
    assert torch.equal(plain[2], images[2].float().flip(1))


def test_boxes_have_the_areas_and_ratios_that_are_asked_for() -> None:
    top, left, height, width = random_boxes(20_000, 224, 0.35, torch.Generator().manual_seed(0)).unbind(1)
    assert float(torch.stack([top, left, 224 - top - height, 224 - left - width]).min()) >= -1e-3
    share, ratio = height * width / 224**2, width / height
    assert 0.30 < float(share.min()) < 0.36
    assert float(share.max()) <= 1
    assert 0.74 < float(ratio.min()) < 0.76 < 1.32 < float(ratio.max()) < 1.34
    assert abs(float(ratio.log().mean())) < 0.01  # neither lying nor standing
    room = 224 - width
    assert abs(float((left / room)[room > 1].mean()) - 0.5) < 0.02


@pytest.mark.parametrize("place", [0, 1, 2])
def test_colours_change_as_torchvisions(place: int) -> None:
    images = torch.from_numpy(photos(4)).float() / 255
    change = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)[place]
    factors = torch.ones(4, 3)
    factors[:, place] = 0.8  # darker, flatter, greyer: nothing leaves the range, where torchvision cuts
    expected = change(images.permute(0, 3, 1, 2), 0.8).permute(0, 2, 3, 1)
    assert torch.allclose(recoloured(images, factors), expected, atol=2e-4)


def test_an_epoch_is_the_same_wherever_it_is_begun_and_views_differ() -> None:
    def views(start: int = 0, seed: int = 3, epoch: int = 1) -> list[tuple[torch.Tensor, ...]]:
        return [b.views for b in Batches(split(20), 5, PHOTO, seed, "cpu", 2).epoch(epoch, start)]

    whole = views()
    assert whole[0][0].shape == (5, 24, 24, 3)
    assert whole[0][0].dtype == torch.uint8
    assert all(torch.equal(a, b) for a, b in zip(whole[2], views(2)[0], strict=True))
    assert not torch.equal(whole[0][0], whole[0][1])
    assert not torch.equal(whole[0][0], views(seed=4)[0][0])
    assert not torch.equal(whole[0][0], views(epoch=2)[0][0])


def test_fewer_steps_are_the_first_ones_of_the_epoch() -> None:
    whole = list(Batches(split(20), 5, PHOTO, 0, "cpu").epoch(0))
    part = list(Batches(split(20), 5, PHOTO, 0, "cpu", steps=2).epoch(0))
    assert (len(whole), len(part)) == (4, 2)
    assert torch.equal(part[1].views[0], whole[1].views[0])
    assert len(list(Batches(split(20), 5, PHOTO, 0, "cpu", steps=9).epoch(0))) == 4


def test_without_mirroring_nothing_is_mirrored() -> None:
    ramp = np.broadcast_to(
        np.linspace(0, 255, SIDE, dtype=np.uint8)[None, None, :, None], (30, SIDE, SIDE, 3)
    )
    part = Split(np.ascontiguousarray(ramp), np.zeros(30, np.int64), "digest")
    (batch,) = Batches(part, 30, Augment(0, False, side=24), 0, "cpu").epoch(0)
    rows = batch.views[0][:, 12, :, 0].float()
    assert (rows[:, -1] > rows[:, 0]).all()
    assert math.isclose(float((rows.diff() >= 0).float().mean()), 1.0)
