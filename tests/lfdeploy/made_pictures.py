"""Pictures made for tests of data: every one differs, unless it is asked for twice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: int = 20) -> Image.Image:
    """Noise that the seed decides."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def fill(place: Path, count: int = 4, first: int = 0, size: int = 20) -> Path:
    """A folder of pictures 0.png, 1.png...; their content follows from the folder's name and ``first``."""
    place.mkdir(parents=True, exist_ok=True)
    seed = sum(ord(letter) * 31**i for i, letter in enumerate(place.name)) % 10**9
    for i in range(count):
        picture(seed + first + i, size).save(place / f"{i}.png")
    return place


def classes(root: Path, names: Iterable[str] = ("cat", "dog", "owl"), count: int = 4, first: int = 0) -> Path:
    """One level of class folders."""
    for name in names:
        fill(root / name, count, first)
    return root
