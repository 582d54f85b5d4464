"""GIF, BMP and WebP: sizes and frames, and the few constructions that make their decoders slow."""

from __future__ import annotations

import struct

from lfdeploy.headers.header import MOST_FRAMES, Header, damaged, orientation, truncated, unsupported

#: Steps through a file's blocks; a program that writes GIF has its first frame long before.
MOST_BLOCKS = 200_000
EXTENSION, FRAME = 0x21, 0x2C
#: Pillow decodes run lengths in Python, one run at a time.
MOST_RUNS = 1_000_000


def gif(blob: bytes) -> Header:
    """Size of the canvas, frames. Raises `PictureError`."""
    if len(blob) < 13:
        raise truncated()
    width, height, flags = struct.unpack_from("<HHB", blob, 6)
    position = 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)
    frames, inside = 0, False  # inside a chain of sub-blocks, which one of length 0 ends
    for _ in range(MOST_BLOCKS):
        byte = blob[position] if position < len(blob) else 0
        if inside:
            position += 1 + byte
            inside = byte > 0
        elif byte == EXTENSION:
            position += 2
            inside = True
        elif byte == FRAME and len(blob) > position + 9:
            frames += 1
            table = blob[position + 9]
            position += 11 + (3 * (2 << (table & 7)) if table & 0x80 else 0)
            inside = True
        else:
            break
        if frames > MOST_FRAMES:
            break
    if not frames:
        raise truncated() if position >= len(blob) else damaged("it has no frame where one must be")
    return Header("GIF", width, height, blob, "P", frames=frames)


def bmp(blob: bytes) -> Header:
    """Size. Raises `PictureError`."""
    if len(blob) < 26:
        raise truncated()
    (length,) = struct.unpack_from("<I", blob, 14)
    if length == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", blob, 18)
        compression = 0
    elif len(blob) >= 34:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", blob, 18)
    else:
        raise truncated()
    if compression in (1, 2) and len(blob) > MOST_RUNS:
        raise unsupported(f"is a run-length encoded BMP of more than {MOST_RUNS // 1_000_000} MB")
    return Header(
        "BMP", abs(width), abs(height), blob, "P" if depth <= 8 else "RGBA" if depth == 32 else "RGB"
    )


def webp(blob: bytes) -> Header:
    """Size of the canvas, frames, orientation. Raises `PictureError`."""
    position, size, mode, frames, exif, xmp = 12, (0, 0), "RGB", 0, b"", b""
    for _ in range(MOST_BLOCKS):
        if position + 8 > len(blob):
            break
        kind, length = struct.unpack_from("<4sI", blob, position)
        body = blob[position + 8 : position + 8 + min(length, 1 << 20 if kind in (b"EXIF", b"XMP ") else 16)]
        if kind in (b"VP8X", b"VP8 ", b"VP8L") and not size[0]:
            if len(body) < 10:
                raise truncated()
            size, mode = _canvas(kind, body)
        frames += kind == b"ANMF"
        exif = body if kind == b"EXIF" else exif
        xmp = body if kind == b"XMP " else xmp
        position += 8 + length + (length & 1)
        if frames > MOST_FRAMES:
            break
    if not size[0]:
        raise truncated() if len(blob) < 30 else damaged("it holds no picture")
    return Header("WEBP", *size, blob, mode, orientation(exif, xmp), max(1, frames))


def _canvas(kind: bytes, body: bytes) -> tuple[tuple[int, int], str]:
    """Size and mode of the first chunk, which has at least 10 bytes."""
    if kind == b"VP8X":
        width, height = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
        return (width, height), "RGBA" if body[0] & 0x10 else "RGB"
    if kind == b"VP8L":
        packed = int.from_bytes(body[1:5], "little")
        return ((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1), "RGBA" if packed >> 28 & 1 else "RGB"
    width, height = struct.unpack_from("<HH", body, 6)
    return (width & 0x3FFF, height & 0x3FFF), "RGB"
