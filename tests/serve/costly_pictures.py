"""Files that cost a decoder much more than their size: by name the bytes, and a word of the sentence, or none
if answered.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def flat_png(width: int, height: int, depth: int, colour: int, samples: int) -> bytes:
    """A black PNG of any size: a few kB, made without its pixels."""
    row = b"\0" * (1 + -(-width * samples * depth // 8))
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def with_chunks(*chunks: bytes) -> bytes:
    """A small PNG with chunks before its pixels."""
    plain = saved(Image.linear_gradient("L"), "PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def many_scans(scans: int) -> bytes:
    """A progressive JPEG of 16 million pixels whose last scan comes again and again:
    150 kB, minutes of work.
    """
    plain = saved(Image.new("RGB", (4000, 4000), (128, 128, 128)), "JPEG", quality=50, progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last:-2] * scans + b"\xff\xd9"


def many_segments() -> bytes:
    """A JPEG with 200,000 empty comments."""
    plain = saved(Image.linear_gradient("L"), "JPEG")
    return plain[:2] + b"\xff\xfe\0\2" * 200_000 + plain[2:]


def gif_comment(blocks: int) -> bytes:
    """A GIF whose comment before the first frame is that many blocks of one byte."""
    plain = saved(Image.new("P", (8, 8)), "GIF")
    frame = plain.rindex(b",")
    return plain[:frame] + b"!\xfe" + b"\1x" * blocks + b"\0" + plain[frame:]


def gif_frames(frames: int) -> bytes:
    """A GIF that repeats its frame."""
    plain = saved(Image.new("P", (8, 8)), "GIF")
    frame = plain.rindex(b",")
    return plain[:frame] + plain[frame:-1] * frames + b";"


def gif_large_frame() -> bytes:
    """A GIF of 16x16 whose first frame says 12000x12000."""
    plain = saved(Image.new("P", (16, 16)), "GIF")
    frame = plain.rindex(b",")
    return plain[: frame + 5] + struct.pack("<HH", 12000, 12000) + plain[frame + 9 :]


def tiff(entries: dict[int, tuple[int, int, int]], pixels: bytes) -> bytes:
    """A little-endian TIFF of raw entries: tag to type, count and value; value -1 is where the pixels are."""
    place = 8 + 2 + 12 * len(entries) + 4
    rows = b""
    for tag, (kind, count, value) in sorted(entries.items()):
        rows += struct.pack("<HHII", tag, kind, count, place if value == -1 else value)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + b"\0\0\0\0" + pixels


def grey_tiff(values: np.ndarray, photometric: int = 1, **more: tuple[int, int, int]) -> bytes:
    """Grey (H, W) as uncompressed TIFF of its own depth; ``more`` entries by ``t<tag>``."""
    height, width = values.shape
    entries = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8 * values.itemsize),
        259: (3, 1, 1),
        262: (3, 1, photometric),
        273: (4, 1, -1),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, values.nbytes),
    }
    entries |= {int(name[1:]): entry for name, entry in more.items()}
    return tiff(entries, values.astype(values.dtype.newbyteorder("<")).tobytes())


def tiff_directory() -> bytes:
    """A TIFF of 2,000 private tags, each of which says that the whole file is its value."""
    pixels = bytes(2_000_000)
    more = {f"t{tag}": (7, len(pixels), -1) for tag in range(40000, 42000)}
    return grey_tiff(np.zeros((8, 8), np.uint8), **more) + pixels


def avif_that_lies() -> bytes:
    """An AVIF of 3000x3000 whose container says 16x16."""
    plain = saved(Image.new("RGB", (3000, 3000)), "AVIF", quality=1, speed=10)
    return re.sub(
        rb"(ispe\0\0\0\0)........",
        rb"\1" + struct.pack(">II", 16, 16).replace(b"\\", b"\\\\"),
        plain,
        flags=re.DOTALL,
    )


def text(kilobytes: int) -> bytes:
    """A text chunk that inflates to so much."""
    return chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(kilobytes * 1000), 9))


def apng(frames: int) -> bytes:
    """A PNG that says it has that many frames."""
    return with_chunks(chunk(b"acTL", struct.pack(">II", frames, 0)))


def profiled() -> bytes:
    """A PNG with a colour profile that inflates to 50 MB."""
    return with_chunks(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50_000_000), 9)))


def split_pixels() -> bytes:
    """A PNG whose pixels come a byte at a time, behind 60,000 empty chunks of them."""
    plain = saved(Image.linear_gradient("L"), "PNG")
    return plain[:33] + chunk(b"IDAT", b"") * 60_000 + plain[33:]


COSTLY: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans.jpg": (lambda: many_scans(2000), "scans"),
    "some scans.jpg": (lambda: many_scans(50), "scans"),
    "segments.jpg": (many_segments, "segments"),
    "rgba.png": (lambda: flat_png(6300, 6300, 8, 6, 4), "million pixels"),
    "rgba 16.png": (lambda: flat_png(6300, 6300, 16, 6, 4), "million pixels"),
    "grey 16.png": (lambda: flat_png(6300, 6300, 16, 0, 1), "million pixels"),
    "rgba that is just small enough.png": (lambda: flat_png(4400, 4400, 8, 6, 4), ""),
    "text 60 MB.png": (lambda: with_chunks(text(60_000)), ""),
    "text 90 MB.png": (lambda: with_chunks(*[text(900)] * 100), ""),
    "profile 50 MB.png": (profiled, ""),
    "split.png": (split_pixels, "chunks"),
    "frames.png": (lambda: apng(1_000_000), ""),
    "frames.gif": (lambda: gif_frames(20_000), ""),
    "comment.gif": (lambda: gif_comment(1_000_000), "damaged"),
    "frame.gif": (gif_large_frame, "header says"),
    "canvas.gif": (
        lambda: saved(Image.new("P", (8, 8)), "GIF").replace(b"\x08\0\x08\0", b"\xff\xff\xff\xff", 1),
        "million pixels",
    ),
    "large.webp": (
        lambda: saved(Image.new("RGB", (5000, 4000)), "WEBP", quality=1, method=0),
        "million pixels",
    ),
    "large.avif": (
        lambda: saved(Image.new("RGB", (5000, 4000)), "AVIF", quality=1, speed=10),
        "million pixels",
    ),
    "liar.avif": (avif_that_lies, "it says 16x16"),
    "half.avif": (
        lambda: (lambda blob: blob[: len(blob) // 2])(
            saved(Image.linear_gradient("L").convert("RGB"), "AVIF")
        ),
        "truncated",
    ),
    "directory.tif": (tiff_directory, ""),
    "group4.tif": (
        lambda: saved(Image.new("1", (6300, 6300)), "TIFF", compression="group4"),
        "million pixels",
    ),
    "int32.tif": (lambda: saved(Image.fromarray(np.zeros((8, 8), np.int32)), "TIFF"), "32-bit"),
    "lab.tif": (lambda: saved(Image.new("RGB", (8, 8)).convert("LAB"), "TIFF"), "Lab"),
}
