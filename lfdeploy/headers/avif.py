"""AVIF: whether the size that the container tells is the size that the coded pictures in it have.

A decoder allocates by the coded size and scales to the told one; a file whose two differ costs what its
header hides.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lfdeploy.headers.header import Header, damaged, truncated, unsupported

SEQUENCE_HEADER, TEMPORAL_DELIMITER = 1, 2
MOST_BOXES, MOST_ITEMS = 4096, 4096
#: Pixels that a grid's last tiles may have beyond the picture, besides an alpha plane and a thumbnail.
MOST_MARGIN = 1 << 20


def read(blob: bytes) -> Header:
    """The largest size told, which all coded pictures together must bear out. Raises `PictureError`."""
    if blob[8:12] == b"avis":
        raise unsupported("is an animated AVIF, which is not read")
    boxes = {kind: (start, end) for kind, start, end in _boxes(blob, 0, len(blob))}
    if b"meta" not in boxes:
        raise truncated()
    inner = {
        kind: (start, end) for kind, start, end in _boxes(blob, boxes[b"meta"][0] + 4, boxes[b"meta"][1])
    }
    told = _told(blob, *inner.get(b"iprp", (0, 0)))
    if b"iloc" not in inner or not told:
        raise damaged("it does not say where its picture is")
    coded = [size for place in _places(blob, inner) if (size := _coded(blob, place)) is not None]
    width, height = max(told, key=lambda size: size[0] * size[1])
    area = sum(w * h for w, h in coded)
    if not coded:
        raise unsupported("is an AVIF of a kind that is not accepted")
    if (
        any(size not in told for size in coded)
        or not width * height <= area <= 3 * width * height + MOST_MARGIN
    ):
        largest = max(coded, key=lambda size: size[0] * size[1])
        raise damaged(f"it says {width}x{height} pixels, and holds {largest[0]}x{largest[1]}")
    return Header("AVIF", width, height, blob, "RGBA")


def _boxes(blob: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and begin and end of the content, of the boxes between two places. Raises `PictureError` when one
    is cut.
    """
    for _ in range(MOST_BOXES):
        if start + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", blob, start)
        begin = start + 8
        if length == 1 and start + 16 <= end:
            length, begin = struct.unpack_from(">Q", blob, start + 8)[0], start + 16
        stop = end if length == 0 else start + length
        if stop > end and kind != b"mdat":
            raise truncated()
        if stop <= start:
            raise damaged(f"a box has length {length}")
        yield kind, begin, min(stop, end)
        start = stop


def _told(blob: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """Every size among the properties of items."""
    sizes = []
    for kind, begin, stop in _boxes(blob, start, end):
        if kind == b"ipco":
            for name, at, _ in _boxes(blob, begin, stop):
                if name == b"ispe" and at + 12 <= len(blob):
                    width, height = struct.unpack_from(">II", blob, at + 4)
                    sizes.append((width, height))
    return sizes


def _places(blob: bytes, inner: dict[bytes, tuple[int, int]]) -> list[int]:
    """Where each item's data begin. Raises `PictureError` for data beyond the end of the file."""
    reader = _Fields(blob, inner[b"iloc"][0])
    version = reader.take(1)
    reader.take(3)
    widths, more = reader.take(1), reader.take(1)
    items = reader.take(2 if version < 2 else 4)
    places = []
    for _ in range(min(items, MOST_ITEMS)):
        reader.take(2 if version < 2 else 4)
        method = reader.take(2) & 15 if version in (1, 2) else 0
        reader.take(2)
        base = reader.take(more >> 4)
        for number in range(reader.take(2)):
            reader.take(more & 15 if version in (1, 2) else 0)
            offset, length = reader.take(widths >> 4), reader.take(widths & 15)
            place = base + offset + (inner.get(b"idat", (0, 0))[0] if method == 1 else 0)
            if place + max(length, 1) > len(blob):
                raise truncated()
            places += [place] if number == 0 else []
    return places


@dataclass
class _Fields:
    """Big-endian numbers of given widths, one after the other."""

    blob: bytes
    position: int

    def take(self, width: int) -> int:
        """The next number of ``width`` bytes."""
        if self.position + width > len(self.blob):
            raise truncated()
        self.position += width
        return int.from_bytes(self.blob[self.position - width : self.position], "big")


@dataclass
class _Bits:
    """Single bits of an AV1 header, from the highest on."""

    value: int
    left: int

    def take(self, count: int) -> int:
        """The next ``count`` bits as a number."""
        self.left -= count
        return self.value >> max(0, self.left) & ((1 << count) - 1)


def _coded(blob: bytes, place: int) -> tuple[int, int] | None:
    """Width and height in the AV1 sequence header that begins there; None where none does."""
    if place + 2 <= len(blob) and blob[place] >> 3 == TEMPORAL_DELIMITER:
        place += 2
    if place + 2 > len(blob) or blob[place] >> 3 != SEQUENCE_HEADER or not blob[place] & 2:
        return None
    start = place + 2 + (4 if blob[place] & 4 else 0)
    data = blob[start : start + 64]
    bits = _Bits(int.from_bytes(data, "big"), 8 * len(data))
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced header
        bits.take(5)
    else:
        if bits.take(1):
            raise unsupported("is an AVIF with timing, as a film has it")
        delay = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            bits.take(1 if bits.take(5) > 7 else 0)
            bits.take(4 if delay and bits.take(1) else 0)
    across, down = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(across) + 1, bits.take(down) + 1
