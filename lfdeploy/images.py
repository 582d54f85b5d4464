"""From a file or bytes to uint8 pixels at model size: the one path that training, parity, predict and serve share.

The answer of a classifier depends on every step here, so there is exactly one implementation, and its rule
(`RESIZE`) is written into every run and every artifact and compared when an artifact is verified.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lfdeploy.errors import PictureError

Pixels = NDArray[np.uint8]

#: What `fit` does, in words and as data. Changing the code below means changing the version here.
RESIZE: dict[str, Any] = {
    "version": 1,
    "orientation": "exif",
    "colour": "RGB; alpha on white; 16-bit grey divided by 257",
    "crop": "largest centred square",
    "interpolation": "bilinear, antialiased (Pillow)",
}
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
MAX_PIXELS = 40_000_000


@dataclass(frozen=True)
class Picture:
    """An upright RGB picture and remarks about it (an animation's further frames, an odd shape)."""

    image: Image.Image
    width: int
    height: int
    notes: tuple[str, ...] = field(default=())


def decode(source: str | Path | bytes, size: int | None = None) -> Picture:
    """Read a file or its bytes as an upright RGB picture.

    Limits are checked from the header, before any pixel is decoded. With ``size``, a JPEG may be decoded at a
    reduced scale that still has at least twice that many pixels on each side. Raises `PictureError`.
    """
    name = str(source) if not isinstance(source, bytes) else "the upload"
    try:
        blob = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise PictureError("unreadable", f"{name}: {error.strerror or error}.", 400) from None
    if not blob:
        raise PictureError("empty", f"{name} is empty (0 bytes).", 400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning: the limit below is stricter and an error
        try:
            image: Image.Image = Image.open(io.BytesIO(blob), formats=FORMATS)
        except UnidentifiedImageError:
            raise _not_accepted(name, blob) from None
        except Image.DecompressionBombError:
            raise _too_large(name, "more than 179") from None
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise PictureError("damaged", f"{name} is damaged: {error}.") from None
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _too_large(name, f"{width * height / 1e6:.0f}")
        try:
            frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
            if image.getexif().get(0x0112, 1) >= 5:  # turned by a quarter
                width, height = height, width
            if size is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (2 * size, 2 * size))
            image.load()
            image = ImageOps.exif_transpose(image)
            image = _to_rgb(image)
        except PictureError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds; all of them mean a damaged file
            code = "truncated" if "truncated" in str(error).lower() else "damaged"
            raise PictureError(code, f"{name} is {code}: {str(error) or type(error).__name__}.") from None
    notes = []
    if frames > 1:
        notes.append(f"first of {frames} frames used")
    if min(width, height) < 8:
        notes.append(f"tiny picture ({width}x{height})")
    if max(width, height) > 8 * min(width, height):
        notes.append(f"extreme shape ({width}x{height}): only the centred square is seen")
    return Picture(image, width, height, tuple(notes))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.float64)
        if grey.size and (grey.min() < 0 or grey.max() > 65535):
            raise PictureError("unsupported", "32-bit grey pictures are not accepted; save it as 8-bit PNG.", 415)
        image = Image.fromarray(np.round(grey / 257).astype(np.uint8))
    elif image.mode == "F":
        raise PictureError("unsupported", "Floating-point pictures are not accepted; save it as 8-bit PNG.", 415)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _too_large(name: str, megapixels: str) -> PictureError:
    limit = MAX_PIXELS // 1_000_000
    return PictureError("too_many_pixels", f"{name} has {megapixels} million pixels; at most {limit} are accepted. Scale it down.", 413)


def _not_accepted(name: str, blob: bytes) -> PictureError:
    accepted = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF pictures are accepted"
    if blob[4:8] == b"ftyp" and blob[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return PictureError("heic", f"{name} is a HEIC picture. Save it as JPEG first: {accepted}.", 415)
    if any(blob.startswith(magic) for magic in (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"II*\0", b"MM\0*")):
        return PictureError("damaged", f"{name} is damaged: its header promises a picture, but it cannot be read.")
    return PictureError("not_an_image", f"{name} is not a picture: {accepted}.", 415)


def fit(image: Image.Image, size: int) -> Pixels:
    """Scale the largest centred square of an RGB picture to uint8 (size, size, 3), with antialiasing."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    fitted = image.crop((left, top, left + side, top + side))
    if side != size:
        fitted = fitted.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(fitted, dtype=np.uint8).copy()


def prepare(source: str | Path | bytes, size: int) -> Pixels:
    """Decode and fit: the pixels (size, size, 3) that a model of that size is fed with."""
    return fit(decode(source, size).image, size)


def fit_all(images: Pixels, size: int) -> Pixels:
    """`fit` over an array uint8 (N, H, W, 3); the array itself where it already has that size."""
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([fit(Image.fromarray(image), size) for image in images])
