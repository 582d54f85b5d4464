"""Files that visitors bring: good ones that are odd, and bad ones."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image


def plain(width: int = 96, height: int = 96) -> Image.Image:
    """Noise with a bright middle."""
    grey = np.random.default_rng(0).integers(0, 90, (height, width, 3))
    grey[height // 4 : -height // 4, width // 3 : -width // 3] += 140
    return Image.fromarray(grey.astype(np.uint8))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    """The picture as a file's bytes."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def huge(width: int, height: int) -> bytes:
    """A PNG whose header promises that many pixels: a few hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")


def animated(format: str) -> bytes:
    """Three frames."""
    frames = [plain().rotate(angle) for angle in (0, 20, 40)]
    return saved(frames[0], format, save_all=True, append_images=frames[1:])


def zipped() -> bytes:
    """An archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "hello")
    return out.getvalue()


def sixteen_bit() -> bytes:
    """A grey PNG with 16 bits."""
    return saved(Image.fromarray(np.asarray(plain().convert("L")).astype(np.uint16) * 257), "PNG")


def turned() -> bytes:
    """A JPEG that says it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(plain(), "JPEG", exif=exif)


JPEG = saved(plain(), "JPEG")

#: By name: the file's bytes.
GOOD: dict[str, Callable[[], bytes]] = {
    "animated.gif": lambda: animated("GIF"),
    "animated.webp": lambda: animated("WEBP"),
    "animated.png": lambda: animated("PNG"),
    "cmyk.jpg": lambda: saved(plain().convert("CMYK"), "JPEG"),
    "16-bit.png": sixteen_bit,
    "palette.png": lambda: saved(plain().convert("P"), "PNG", transparency=0),
    "alpha.png": lambda: saved(plain().convert("RGBA"), "PNG"),
    "grey alpha.png": lambda: saved(plain().convert("LA"), "PNG"),
    "turned.jpg": turned,
    "1x1.png": lambda: saved(plain(1, 1), "PNG"),
    "1x2000.png": lambda: saved(plain(1, 2000), "PNG"),
    "20000x2.png": lambda: saved(plain(20000, 2), "PNG"),
    "a.avif": lambda: saved(plain(), "AVIF"),
    "a.tiff": lambda: saved(plain(), "TIFF"),
    "a.bmp": lambda: saved(plain(), "BMP"),
    "a.webp": lambda: saved(plain(), "WEBP"),
    "jpeg named.gif": lambda: JPEG,
    "with html behind.jpg": lambda: JPEG + b"<script>alert(1)</script>",
}

#: By name: the file's bytes, and a word that its sentence must hold.
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "half.jpg": (lambda: JPEG[: len(JPEG) // 2], "truncated"),
    "cut.jpg": (lambda: JPEG[:-200], "truncated"),
    "30000x30000.png": (lambda: huge(30000, 30000), "million pixels"),
    "13300x13300.png": (lambda: huge(13300, 13300), "million pixels"),
    "9400x9400.png": (lambda: huge(9400, 9400), "million pixels"),
    "html.png": (lambda: b"<html><script>alert(1)</script></html>", "not a picture"),
    "svg.png": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
    "a.svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
    "empty.png": (lambda: b"", "empty"),
    "large.png": (lambda: JPEG + b"\0" * 11_000_000, "10 MB"),
    "a.txt": (lambda: b"hello", "not a picture"),
    "a.zip": (zipped, "not a picture"),
    "a.pdf": (lambda: b"%PDF-1.7\n1 0 obj\n", "not a picture"),
    "a.mp4": (lambda: b"\0\0\0\x20ftypisom\0\0\2\0", "not a picture"),
    "a.heic": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "a.jp2": (lambda: saved(plain(), "JPEG2000"), "not a picture"),
    "a.ico": (lambda: saved(plain(), "ICO"), "not a picture"),
    "float.tiff": (lambda: saved(plain().convert("F"), "TIFF"), "floating-point"),
}
