"""To upright RGB, in bands of rows, so that a large picture is never held three times over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lfdeploy.errors import PictureError
from lfdeploy.headers.header import unsupported

BAND = 256
#: Pictures whose 16-bit samples all lie below this look black: most are 10 or 12 bits that nobody scaled.
DARK, DIM = 1 << 12, 1 << 14
METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Samples:
    """What is known of a picture's samples: as in `lfdeploy.headers.Header`, with its meanings of 0."""

    depth: int = 8
    largest: int = 0
    bits: int = 0
    inverted: bool = False


def square_of(width: int, height: int, orientation: int) -> Box:
    """Where the largest centred square of the upright picture lies in the stored one, which is width
    x height.
    """
    side = min(width, height)
    across, down = (width, height) if orientation < 5 else (height, width)
    left, top = (across - side) // 2, (down - side) // 2
    if orientation in (2, 3):
        left = width - side - left
    if orientation in (3, 4):
        top = height - side - top
    if orientation >= 5:  # rows are columns: the upright left is a stored top
        left, top = top, left
        left = width - side - left if orientation in (7, 8) else left
        top = height - side - top if orientation in (6, 7) else top
    return left, top, left + side, top + side


def upright(
    image: Image.Image, box: Box, orientation: int, samples: Samples
) -> tuple[Image.Image, tuple[str, ...]]:
    """The part ``box`` of a stored picture as RGB, turned upright, and remarks. Raises `PictureError`."""
    if image.mode in ("F", "I", "LAB"):
        kind = {"F": "floating-point numbers", "I": "32-bit integers", "LAB": "Lab colours"}[image.mode]
        raise unsupported(f"holds {kind}, of which nobody says what is white")
    notes: tuple[str, ...] = ()
    if image.mode.startswith("I;16"):
        image, notes = _from_16_bit(image, box, samples)
    elif samples.depth == 16 and samples.bits < 16 and 0 < _brightest(image) < DARK >> 8:
        raise _unscaled(_brightest(image) << 8, samples.inverted)
    elif image.mode != "RGB" or image.has_transparency_data:
        image = _converted(image, box)
    elif box != (0, 0, *image.size):
        image = image.crop(box)
    if orientation in METHODS:
        image = image.transpose(METHODS[orientation])
    return image, notes


def _converted(image: Image.Image, box: Box) -> Image.Image:
    """The part as RGB; what is transparent goes on white."""
    left, top, right, bottom = box
    result = Image.new("RGB", (right - left, bottom - top))
    for row in range(top, bottom, BAND):
        band = image.crop((left, row, right, min(row + BAND, bottom)))
        if image.has_transparency_data:
            rgba = band.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            band = Image.alpha_composite(white, rgba)
        result.paste(band.convert("RGB"), (0, row - top))
    return result


def _from_16_bit(image: Image.Image, box: Box, samples: Samples) -> tuple[Image.Image, tuple[str, ...]]:
    """The part of a 16-bit grey picture as RGB, its white at 255, and a remark where it may be darker
    than meant.
    """
    largest, low_bits = 0, 0
    for row in range(0, image.height, BAND):
        values = np.asarray(image.crop((0, row, image.width, min(row + BAND, image.height))))
        largest = max(largest, int(values.max()))
        low_bits |= int(np.bitwise_or.reduce(values, axis=None))
    white = samples.largest
    if not white and 8 <= samples.bits < 16:
        # PNG wants samples scaled to 16 bits, the bits below the significant ones filled up; not everybody
        # does.
        unscaled = largest < 1 << samples.bits and low_bits & ((1 << (16 - samples.bits)) - 1)
        white = (1 << samples.bits) - 1 if unscaled else 65535
    told = bool(white) or samples.bits == 16
    if not told and 0 < largest < DARK:
        raise _unscaled(largest, samples.inverted)
    notes: tuple[str, ...] = ()
    if not told and 0 < largest < DIM:
        than = "brighter" if samples.inverted else "darker"
        notes = (f"its largest sample is {largest:,} of 65,535: perhaps {than} than meant",)
    transparent = image.info.get("transparency")
    left, top, right, bottom = box
    result = Image.new("RGB", (right - left, bottom - top))
    for row in range(top, bottom, BAND):
        values = np.asarray(image.crop((left, row, right, min(row + BAND, bottom))))
        grey = np.round(np.minimum(values, white or 65535) * (255 / (white or 65535))).astype(np.uint8)
        grey = 255 - grey if samples.inverted else grey
        if isinstance(transparent, int):
            grey = np.where(values == transparent, np.uint8(255), grey)
        result.paste(Image.fromarray(grey).convert("RGB"), (0, row - top))
    return result, notes


def _brightest(image: Image.Image) -> int:
    """The largest sample of the colours, of 255."""
    highest = np.asarray(image.getextrema()).reshape(-1, 2)[:, 1]
    colours = [band != "A" for band in image.getbands()]
    return int(highest[colours].max())


def _unscaled(largest: int, inverted: bool) -> PictureError:
    shade = "white" if inverted else "black"
    seen = f"its largest 16-bit sample is about {largest:,} of 65,535"
    text = f"is nearly {shade}: {seen}, as when 12 bits are not scaled to 16"
    return unsupported(text)
