"""What is said of the pictures when a run's settings are repeated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import Result
from PIL import Image


def test_few_photos_from_scratch_are_told_of_trained_weights(
    tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """Not again where the run goes on, nor for pictures as small as digits."""
    for number in range(40):
        place = tmp_path / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (90, 80, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    small = ["--runs", tmp_path, "--arch", "resnet8", "--peers", 1, "--method", "independent"]
    photos = ["train", "--data", tmp_path / "photos", *small, "--epochs", 1, "--steps", 1]
    advice = "with --arch efficientnet_lite0 --weights default"
    assert advice in lf(*photos, "--name", "one").stderr
    assert advice not in lf(*photos, "--name", "two", "--image-size", 32).stderr
    (tmp_path / "one" / "summary.json").unlink()
    again = lf("train", "--resume", tmp_path / "one")
    assert again.exit_code == 0 and advice not in again.stderr


def test_pictures_that_changed_since_the_run_that_is_repeated(
    coloured_npz: Path, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """Named with the counts; nothing is said while they are as they were, nor of a config.json elsewhere."""
    words = ["--runs", tmp_path]
    small = ["--arch", "resnet8", "--method", "independent", "--peers", 1, "--epochs", 1, "--val-fraction", 0]
    assert lf("train", "--data", coloured_npz, *words, *small, "--name", "one").exit_code == 0
    config = tmp_path / "one" / "config.json"
    again = lf("train", "--config", config, *words, "--name", "same")
    assert again.exit_code == 0 and "whose settings these are" not in again.stderr
    with np.load(coloured_npz) as arrays:
        given = dict(arrays)
    pictures = np.concatenate([given["train_x"][1:], 255 - given["train_x"][:3]])
    labels = np.concatenate([given["train_y"][1:], given["train_y"][:3]])
    np.savez(coloured_npz, **given | {"train_x": pictures, "train_y": labels})
    other = lf("train", "--config", config, *words, "--name", "other")
    assert other.exit_code == 0
    what = "Note: coloured is not as it was for run one, whose settings these are"
    assert f"{what} (3 pictures came and 1 picture went)." in other.stderr
    moved = shutil.copy(config, tmp_path / "moved.json")
    assert "whose settings" not in lf("train", "--config", moved, *words, "--name", "moved").stderr
