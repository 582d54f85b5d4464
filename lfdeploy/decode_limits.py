"""How large a picture may be, decided from its header: what decoding would hold in memory, and how long it
would take.
"""

from __future__ import annotations

from lfdeploy.errors import PictureError
from lfdeploy.headers import Header
from lfdeploy.headers.header import damaged

#: Bytes that decoding may hold at its peak, beside the file itself: so that no upload costs 200 MB, nor a
#: second.
BUDGET = 188_000_000
#: Phones of "200 megapixels" write up to 16384 x 12288. A JPEG is decoded at an eighth of that where that
#: suffices.
MAX_PIXELS = 202_000_000
#: Several scans need all coefficients in memory, and each of them passes over the whole picture.
MAX_PROGRESSIVE = 51_000_000
MAX_SCANNED = 600_000_000
#: Bytes a stored pixel while a decoder works, its own buffers and Pillow's pixels, as measured on files of
#: each kind; AVIF and TIFF have more, for the time that theirs take.
WORKING = {"JPEG": 4, "PNG": 4, "GIF": 9, "BMP": 4, "TIFF": 10, "WEBP": 15.3, "AVIF": 15}
WORKING_ON_RGB = {"TIFF": 7.5}
#: Bytes a pixel that Pillow keeps, where they are not four; and those of the RGB square, made of it in bands.
NARROW = {"L": 1, "P": 1, "I;16": 2}
KEPT, SQUARE, CONVERTED = 4, 4, 5


def check(header: Header, size: int | None) -> None:
    """Raise `PictureError` for a picture that would cost more than the limits; ``size`` as in
    `images.decode`.
    """
    pixels = header.width * header.height
    if not pixels:
        raise damaged(f"its header says {header.width}x{header.height} pixels")
    if pixels > MAX_PIXELS:
        raise _too_large(pixels, MAX_PIXELS)
    if header.coefficients and pixels > MAX_PROGRESSIVE:
        raise _too_large(pixels, MAX_PROGRESSIVE, " in a JPEG of several scans")
    if header.scans * pixels > MAX_SCANNED:
        raise PictureError(
            "too_many_scans",
            f"has {header.scans:,} scans of {pixels / 1e6:.0f} million pixels; at most "
            f"{max(1, MAX_SCANNED // pixels):,} are accepted at that size. Save it again as a plain JPEG.",
            413,
        )
    scale = reduction(header, size)
    growth = _growth(header, scale)
    if growth > BUDGET:
        most = pixels * (BUDGET - header.coefficients) // max(1, growth - header.coefficients)
        raise _too_large(
            pixels, max(0, most), f" in such a {'WebP' if header.format == 'WEBP' else header.format}"
        )


def reduction(header: Header, size: int | None) -> int:
    """1, 2, 4 or 8: by how much the decoder shrinks a JPEG that must still have
    twice ``size`` on each side.
    """
    if size is None or header.format != "JPEG":
        return 1
    times = min(header.width, header.height) // (2 * size)
    return next((scale for scale in (8, 4, 2) if times >= scale), 1)


def _growth(header: Header, scale: int) -> int:
    """Bytes held at the peak while a picture is decoded, and made into an upright RGB square."""
    pixels = header.width * header.height // scale**2
    square = (min(header.width, header.height) // scale) ** 2
    kept = NARROW.get(header.mode, KEPT) * pixels
    working = (WORKING_ON_RGB if header.mode == "RGB" else WORKING).get(
        header.format, WORKING[header.format]
    ) * pixels
    if header.format in ("PNG", "BMP"):
        working = kept
    whole = header.mode == "RGB" and header.width == header.height
    making = kept + (0 if whole else SQUARE * square if header.mode == "RGB" else CONVERTED * square)
    turning = 2 * SQUARE * square if header.orientation > 1 else 0
    return header.coefficients + int(max(working, making, turning))


def _too_large(pixels: int, most: int, kind: str = "") -> PictureError:
    text = (
        f"has {pixels / 1e6:.0f} million pixels; at most {most / 1e6:.0f} million are accepted{kind}. "
        "Scale it down."
    )
    return PictureError("too_many_pixels", text, 413)
