"""From a file, bytes, an array or a Pillow picture to uint8 pixels at model size: the one path of
all commands.

The answer of a classifier depends on every step here, so there is exactly one implementation, and its rule
(`RESIZE`) is written into every run and every artifact, and compared when an artifact is opened or verified.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from lfdeploy.colour import Samples, square_of, upright
from lfdeploy.decode_limits import MAX_PIXELS, check, reduction
from lfdeploy.errors import LfdeployError, PictureError
from lfdeploy.headers import MOST_FRAMES, Header, orientation, read_header
from lfdeploy.headers.header import damaged

__all__ = ["MAX_PIXELS", "RESIZE", "SUFFIXES", "Picture", "Pixels", "decode", "fit", "fit_all", "prepare"]

Pixels = NDArray[np.uint8]
#: What `decode` and `prepare` take: a path, a file's bytes, a Pillow picture, or uint8 (H, W), (H, W, 1, 3 or
#: 4).
Given = str | Path | bytes | bytearray | memoryview | Image.Image | Pixels

#: What `fit` does, in words and as data. Changing the code below means changing the version here.
RESIZE: dict[str, Any] = {
    "version": 1,
    "orientation": "exif",
    "colour": "RGB; alpha on white; 16-bit grey divided by 257",
    "crop": "largest centred square",
    "interpolation": "bilinear, antialiased (Pillow)",
}
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
)
ARRAYS = "uint8 (H, W, 3), or (H, W) for grey, or (H, W, 4) with alpha"


@dataclass(frozen=True)
class Picture:
    """An upright RGB picture and remarks about it (an animation's further frames, an odd shape).

    ``width`` and ``height`` are those of the whole upright picture; ``image`` may be its centred square
    alone, reduced.
    """

    image: Image.Image
    width: int
    height: int
    notes: tuple[str, ...] = field(default=())


def decode(source: Given, size: int | None = None) -> Picture:
    """Read a file, its bytes, an array or a Pillow picture as an upright RGB picture.

    Limits are checked from the header, before any pixel is decoded. With ``size`` only the largest centred
    square is made, and a JPEG may be decoded at a reduced scale that still has at least twice that many
    pixels on each side. Raises `PictureError`, and `LfdeployError` for what is none of these, or an array of
    another kind.
    """
    if isinstance(source, np.ndarray):
        return _noted(from_array(source), 1, Samples(), size, 1)
    name = (
        str(source)
        if isinstance(source, (str, Path))
        else "the picture"
        if isinstance(source, Image.Image)
        else "the upload"
    )
    try:
        if isinstance(source, Image.Image):
            blob = unread(source)
            return _decoded(blob, size) if blob else _of_pillow(source, size)
        if not isinstance(source, (str, Path, bytes, bytearray, memoryview)):
            way = " Give what its read() returns." * hasattr(source, "read")
            way += " Give its numpy(), uint8 and channels last." * hasattr(source, "numpy")
            raise LfdeployError(
                f"A picture is a path, bytes, a Pillow picture, or an array {ARRAYS}; this is "
                f"{_article(type(source).__name__)}.{way}"
            )
        return _decoded(Path(source).read_bytes() if isinstance(source, (str, Path)) else bytes(source), size)
    except PictureError as error:
        raise PictureError(error.code, f"{name} {error}", error.status) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise PictureError("unreadable", f"{name}: {reason}.", 400) from None


def _decoded(blob: bytes, size: int | None) -> Picture:
    """As `decode`, for a file's bytes; sentences lack their subject."""
    if not blob:
        raise PictureError("empty", "is empty (0 bytes).", 400)
    header = read_header(blob)
    check(header, size)
    samples = Samples(header.depth, header.largest, header.bits, header.inverted)
    with warnings.catch_warnings():
        # Pillow's own warnings about size and metadata: the limits are checked above
        warnings.simplefilter("ignore")
        try:
            image = _opened(header)
            turned = header.orientation
            if header.format == "AVIF":
                turned = orientation(image.info.get("exif") or b"", _bytes(image.info.get("xmp")))
            if reduction(header, size) > 1:
                assert size is not None
                image.draft(None, (2 * size, 2 * size))
            expected = image.size
            image.load()
            if image.size != expected:
                raise damaged(f"its header says {expected}, its pixels are {image.size}")
            _let_go(image)
            return _noted(image, turned, samples, size, header.frames, (header.width, header.height))
        except PictureError:
            raise
        except MemoryError:
            raise PictureError("too_large", "needs more memory than there is. Scale it down.", 413) from None
        except Exception as error:  # Pillow's decoders raise many kinds; all of them mean a damaged file
            code = "truncated" if "truncated" in str(error).lower() else "damaged"
            raise PictureError(code, f"is {code}: {_reason(error)}.") from None


def _opened(header: Header) -> ImageFile.ImageFile:
    """The file opened by its own format's reader, which has none of `Image.open`'s limits. Raises what
    Pillow raises.
    """
    Image.preinit()
    if header.format not in Image.OPEN:
        Image.init()
    image = Image.OPEN[header.format][0](io.BytesIO(header.pixels), "")
    if image.size != (header.width, header.height):
        raise damaged(
            f"its header says {header.width}x{header.height} pixels, its picture has "
            f"{image.size[0]}x{image.size[1]}"
        )
    return image


def _let_go(image: ImageFile.ImageFile) -> None:
    """Free what a decoder holds of a picture that has its pixels: of WebP and AVIF that is most of
    the memory.
    """
    image.fp = None
    if hasattr(image, "_decoder"):
        image._decoder = None


def _reason(error: Exception) -> str:
    """The first line of what Pillow says, without objects' addresses and a full stop."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"<[^<>]* object at 0x[0-9a-f]+>", "it", line)[:150].rstrip(".")


def unread(image: Image.Image) -> bytes | None:
    """The bytes of a file that was opened with Pillow and not decoded yet; None for
    any other Pillow picture.
    """
    if not isinstance(image, ImageFile.ImageFile) or getattr(image, "_im", image) is not None:
        return None
    file = image.fp
    try:
        if file is None or file.closed or image.tell() != 0:
            return None
        place = file.tell()
        file.seek(0)
        blob = file.read()
        file.seek(place)
    except (AttributeError, OSError, ValueError):
        return None
    return blob


def _of_pillow(image: Image.Image, size: int | None) -> Picture:
    """As `decode`, for a Pillow picture that has its pixels: turned as its EXIF says, unless it was
    turned before.
    """
    if 0 in image.size:
        raise PictureError("empty", f"is empty ({image.width}x{image.height} pixels).", 400)
    samples, tags = Samples(), getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags:
        samples = Samples(16, 0, 0, tags.get(262) == 0)
    turned = orientation(
        _bytes(image.info.get("exif")), _bytes(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp"))
    )
    try:
        image.load()
    except Exception as error:
        raise damaged(_reason(error)) from None
    return _noted(
        image, 1 if image.format == "TIFF" else turned, samples, size, getattr(image, "n_frames", 1)
    )


def _bytes(value: object) -> bytes:
    return (
        value.encode("utf-8", "replace")
        if isinstance(value, str)
        else value
        if isinstance(value, bytes)
        else b""
    )


def from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    """One picture, uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), as Pillow's. Raises `LfdeployError`
    for others.
    """
    if array.dtype != np.uint8:
        hint = (
            " Multiply by 255 and round, if 1.0 is white." if np.issubdtype(array.dtype, np.floating) else ""
        )
        raise LfdeployError(f"The array is {array.dtype}; pass {ARRAYS}, 0 black and 255 white.{hint}")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        shape = "x".join(map(str, array.shape)) or "no axis"
        hint = (
            " Move its channels last: array.transpose(1, 2, 0)."
            if array.ndim == 3 and array.shape[0] in (1, 3)
            else ""
        )
        raise LfdeployError(f"The array has shape {shape}; pass {ARRAYS}.{hint}")
    plain = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(plain))


def _noted(
    image: Image.Image,
    turned: int,
    samples: Samples,
    size: int | None,
    frames: int,
    whole: tuple[int, int] | None = None,
) -> Picture:
    """The upright picture with its remarks; ``whole`` is the stored size where the decoder reduced it."""
    width, height = whole or image.size
    box = (0, 0, *image.size) if size is None else square_of(*image.size, turned)
    result, remarks = upright(image, box, turned, samples)
    if turned >= 5:
        width, height = height, width
    notes = list(remarks)
    if frames > 1:
        notes.append(
            f"first of {f'more than {MOST_FRAMES:,}' if frames > MOST_FRAMES else frames} frames used"
        )
    if min(width, height) < 8:
        notes.append(f"tiny picture ({width}x{height})")
    if max(width, height) > 8 * min(width, height):
        notes.append(f"extreme shape ({width}x{height}): only the centred square is seen")
    return Picture(result, width, height, tuple(notes))


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


def fit(image: Image.Image, size: int) -> Pixels:
    """Scale the largest centred square of an RGB picture to uint8 (size, size, 3), with antialiasing."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    fitted = image if image.size == (side, side) else image.crop((left, top, left + side, top + side))
    if side != size:
        fitted = fitted.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(fitted, dtype=np.uint8).copy()


def prepare(source: Given, size: int, notes: list[str] | None = None) -> Pixels:
    """Decode and fit: the pixels (size, size, 3) that a model of that size is fed with; ``notes`` takes what
    is odd about the picture.
    """
    picture = decode(source, size)
    if notes is not None:
        notes += picture.notes
    return fit(picture.image, size)


def fit_all(images: Pixels, size: int) -> Pixels:
    """`prepare` over a batch uint8 (N, H, W, 3); the array itself where it already has that size."""
    if images.shape[1:] == (size, size, 3) and images.dtype == np.uint8:
        return images
    return np.stack([prepare(image, size) for image in images])
