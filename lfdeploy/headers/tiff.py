"""TIFF: the first directory, written anew with only the tags that make pixels; odd tags and further pages
stay out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from lfdeploy.headers.header import (
    INTEGERS,
    MOST_FRAMES,
    ORIENTATION,
    Header,
    damaged,
    truncated,
    unsupported,
)

SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
NUMBERS = INTEGERS | {13: "I", 16: "Q", 17: "q"}
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, FORMAT = 256, 257, 258, 259, 262, 277, 339
EXTRA, STRIPS, TILES = 338, 273, 324
LARGEST, LARGEST_OF_FORMAT = 281, 341
#: What a decoder reads of a directory: size, bits, colours, where the pixels are, JPEG's tables.
PIXELS = {
    WIDTH,
    HEIGHT,
    BITS,
    COMPRESSION,
    PHOTOMETRIC,
    266,
    STRIPS,
    SAMPLES,
    278,
    279,
    284,
    292,
    293,
    317,
    320,
    322,
    323,
    TILES,
    325,
    332,
    EXTRA,
    FORMAT,
    347,
    *range(512, 522),
    529,
    530,
    532,
}
WHITE_IS_ZERO, CIELAB = 0, (8, 9, 10)
JPEG, OLD_JPEG = 7, 6
MOST_ENTRIES, MOST_STRIPS, MOST_SCANS = 4096, 200_000, 20


@dataclass(frozen=True)
class _File:
    """A TIFF or BigTIFF: its byte order, and how wide its counts and offsets are."""

    blob: bytes
    order: str
    big: bool

    def unpack(self, kind: str, position: int) -> tuple[Any, ...]:
        """Numbers at a position. Raises `PictureError` past the end."""
        try:
            return struct.unpack_from(self.order + kind, self.blob, position)
        except (struct.error, OverflowError):  # a position beyond 2**63 is no index at all
            raise truncated() from None

    def directory(self, start: int) -> tuple[list[bytes], int]:
        """The raw entries of a directory, and where the next one is."""
        (count,) = self.unpack("Q" if self.big else "H", start)
        if count > MOST_ENTRIES:
            raise damaged(f"its directory has {count:,} entries")
        wide, begin = (20, start + 8) if self.big else (12, start + 2)
        end = begin + wide * count
        (after,) = self.unpack("Q" if self.big else "I", end)
        return [self.blob[at : at + wide] for at in range(begin, end, wide)], after

    def numbers(self, entry: bytes, most: int = 16) -> list[int]:
        """The first integers of an entry; none where it has another type."""
        _, kind, count = struct.unpack_from(self.order + ("HHQ" if self.big else "HHI"), entry)
        if kind not in NUMBERS:
            return []
        taken, inline = min(count, most), 8 if self.big else 4
        field = entry[-inline:]
        if SIZES[kind] * count <= inline:
            return list(struct.unpack_from(f"{self.order}{taken}{NUMBERS[kind]}", field))
        (place,) = struct.unpack(self.order + ("Q" if self.big else "I"), field)
        return list(self.unpack(f"{taken}{NUMBERS[kind]}", place))


def read(blob: bytes) -> Header:
    """Size, mode, orientation, what is white. Raises `PictureError`, by name for
    what cannot be read rightly.
    """
    order, big = ("<" if blob[:2] == b"II" else ">"), blob[2:4] in (b"+\0", b"\0+")
    file = _File(blob, order, big)
    (start,) = file.unpack("Q" if big else "I", 8 if big else 4)
    entries, after = file.directory(start)
    tags = {struct.unpack_from(order + "H", entry)[0]: entry for entry in entries}
    facts = {
        tag: file.numbers(entry)
        for tag, entry in tags.items()
        if tag in PIXELS | {ORIENTATION, LARGEST, LARGEST_OF_FORMAT}
    }
    if not facts.get(WIDTH) or not facts.get(HEIGHT):
        raise damaged("it does not say how wide and high it is")
    width, height = facts[WIDTH][0], facts[HEIGHT][0]
    bits = (facts.get(BITS) or [1])[0]
    photometric = (facts.get(PHOTOMETRIC) or [WHITE_IS_ZERO])[0]
    samples = (facts.get(SAMPLES) or [1])[0]
    _check(facts, bits, photometric)
    _check_pieces(file, tags, (facts.get(COMPRESSION) or [1])[0])
    grey = samples == 1 and 8 < bits <= 16
    mode = "I;16" if grey else {1: "P" if photometric == 3 else "L", 3: "RGB"}.get(samples, "RGBA")
    turned = (facts.get(ORIENTATION) or [1])[0]
    return Header(
        "TIFF",
        width,
        height,
        _rewritten(file, [tags[tag] for tag in sorted(tags) if tag in PIXELS]),
        mode,
        turned if 1 <= turned <= 8 else 1,
        _pages(file, start, after),
        depth=bits,
        largest=_largest(facts, bits) if grey else 0,
        inverted=grey and photometric == WHITE_IS_ZERO,
    )


def _largest(facts: dict[int, list[int]], bits: int) -> int:
    """White as the file tells it: all bits of a depth below 16, or of a tag; another number there is
    a statistic.
    """
    for tag in (LARGEST_OF_FORMAT, LARGEST):
        value = (facts.get(tag) or [0])[0]
        if 255 <= value <= 65535 and value & (value + 1) == 0:
            return value
    return (1 << bits) - 1 if bits < 16 else 0


def _check(facts: dict[int, list[int]], bits: int, photometric: int) -> None:
    """Refuse by name numbers that are not plain unsigned samples of at most 16 bits."""
    kind = (facts.get(FORMAT) or [1])[0]
    if kind in (3, 6):
        raise unsupported("holds floating-point numbers, of which nobody says what is white")
    if kind in (2, 5):
        raise unsupported(f"holds signed {bits}-bit integers, of which nobody says what is white")
    if bits > 16:
        raise unsupported(f"holds {bits}-bit integers, of which nobody says what is white")
    if photometric in CIELAB:
        raise unsupported("has Lab colours, which are not accepted")


def _check_pieces(file: _File, tags: dict[int, bytes], compression: int) -> None:
    """Refuse pictures in more pieces, or JPEG strips of more scans, than a program writes."""
    pieces = 1
    for tag in (STRIPS, TILES):
        if tag in tags:
            pieces = struct.unpack_from(file.order + ("Q" if file.big else "I"), tags[tag], 4)[0]
    if pieces > MOST_STRIPS:
        raise damaged(f"it has {pieces:,} strips")
    if compression in (JPEG, OLD_JPEG) and file.blob.count(b"\xff\xda") > MOST_SCANS + 4 * pieces:
        raise damaged("its JPEG strips have more scans than a picture needs")


def _pages(file: _File, first: int, after: int) -> int:
    """How many directories follow each other, up to `MOST_FRAMES` + 1; a broken or
    circular chain just ends.
    """
    starts = {first}
    while after and after not in starts and len(starts) <= MOST_FRAMES:
        starts.add(after)
        try:
            _, after = file.directory(after)
        except Exception:  # a later page may be anything: only the first is used
            break
    return len(starts)


def _rewritten(file: _File, entries: list[bytes]) -> bytes:
    """The file with a directory of these entries alone behind it, and no other."""
    padding = b"\0" * (-len(file.blob) % 8)
    place = len(file.blob) + len(padding)
    count = struct.pack(file.order + ("Q" if file.big else "H"), len(entries))
    end = b"\0" * (8 if file.big else 4)
    start = struct.pack(file.order + ("Q" if file.big else "I"), place)
    head = file.blob[:8] + start if file.big else file.blob[:4] + start
    return b"".join([head, memoryview(file.blob)[len(head) :], padding, count, *entries, end])
