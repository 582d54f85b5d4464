"""Pictures that no camera takes, and ways to batch them: what real data do not exercise."""

from __future__ import annotations

import numpy as np

from lfdeploy.images import Pixels


def probe_pictures(size: int, real: Pixels) -> Pixels:
    """Constants, noise, checkerboards, single pixels, saturated channels, stretched contrast:
    uint8 (P, S, S, 3).
    """
    random = np.random.default_rng(20221110)
    y, x = np.mgrid[:size, :size]
    found = [np.full((size, size, 3), value, np.uint8) for value in (0, 1, 127, 128, 254, 255)]
    found += [random.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(4)]
    found += [
        np.repeat((((x // cell + y // cell) % 2) * 255).astype(np.uint8)[..., None], 3, 2)
        for cell in (1, 2, 4)
    ]
    found += [
        np.repeat((line % 256).astype(np.uint8)[..., None], 3, 2)
        for line in (x * 255 // max(size - 1, 1), y * 255 // max(size - 1, 1))
    ]
    for channel in range(3):
        one = np.zeros((size, size, 3), np.uint8)
        one[..., channel] = 255
        dot = np.zeros((size, size, 3), np.uint8)
        dot[size // 3, size // 2, channel] = 255
        found += [one, 255 - one, dot]
    for image in real[:4]:
        low, high = int(image.min()), int(image.max())
        found.append(((image.astype(np.float64) - low) * (255 / max(high - low, 1))).round().astype(np.uint8))
        found += [255 - image, image[:, ::-1], image[::-1]]
    return np.stack(found)


def batch_sizes(opt: int, most: int) -> list[int]:
    """1 to 5, 7, powers of two to 32, the optimum, the maximum and one less, as far as the profile allows."""
    return sorted({n for n in (1, 2, 3, 4, 5, 7, 8, 16, 32, opt, most - 1, most) if 1 <= n <= most})
