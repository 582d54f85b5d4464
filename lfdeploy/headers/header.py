"""What every reader of a format returns, and the EXIF orientation that several of them share."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from lfdeploy.errors import PictureError

#: Where counting frames stops: a remark needs no exact number, and a file may claim millions.
MOST_FRAMES = 1000

ORIENTATION = 0x0112
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # TIFF's integer types, as `struct` writes them


@dataclass(frozen=True)
class Header:
    """What a file says of itself, read before a pixel is decoded.

    ``width`` and ``height`` as stored, in pixels. ``mode``: Pillow's mode after decoding. ``orientation`` as
    EXIF counts, 1 to 8. ``pixels``: the file without what no pixel needs, which is what is decoded.
    ``frames`` stops at `MOST_FRAMES` + 1.

    JPEG: ``scans`` over the picture, and the bytes of ``coefficients`` that are held while it has several.
    ``depth``: bits a sample. 16-bit samples: the ``largest`` of which the file says that it is white,
    ``bits`` of which it says that they are significant (both 0 where it says nothing), and ``inverted`` where
    0 is white.
    """

    format: str
    width: int
    height: int
    pixels: bytes
    mode: str = "RGB"
    orientation: int = 1
    frames: int = 1
    scans: int = 1
    coefficients: int = 0
    depth: int = 8
    largest: int = 0
    bits: int = 0
    inverted: bool = False


def damaged(reason: str) -> PictureError:
    """The error for a file whose structure is broken; `lfdeploy.images.decode` puts the file's name
    before it.
    """
    return PictureError("damaged", f"is damaged: {reason}.")


def truncated() -> PictureError:
    """The error for a file that ends too early."""
    return PictureError("truncated", "is truncated: the file ends before the picture does.")


def unsupported(what: str) -> PictureError:
    """The error for a sound file of a kind that is not read."""
    return PictureError("unsupported", f"{what}; save it as 8-bit PNG.", 415)


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """1 to 8 of an EXIF block, else of XMP; 1 where they hold nothing readable: odd
    tags condemn no picture.
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    value = _exif_orientation(exif)
    if value is None:
        match = XMP_ORIENTATION.search(xmp)
        value = int(match[1]) if match else 1
    return value if 1 <= value <= 8 else 1


def _exif_orientation(exif: bytes) -> int | None:
    """The orientation's number in the first directory of a TIFF structure; None where there is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", exif, entry)
            if tag == ORIENTATION and kind in INTEGERS and length >= 1:
                return int(struct.unpack_from(f"{order}{INTEGERS[kind]}", exif, entry + 8)[0])
    except struct.error:
        pass
    return None
