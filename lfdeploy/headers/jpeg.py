"""JPEG, up to its end of image: what follows, further pictures of an MPO included, is left out."""

from __future__ import annotations

import re

from lfdeploy.headers.header import Header, damaged, orientation, truncated, unsupported

# A marker; all else between segments is entropy-coded data, stuffing, fill or a restart.
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
START, END, SCAN = 0xD8, 0xD9, 0xDA
FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
SEQUENTIAL = {0xC0, 0xC1, 0xC9}
LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
APP0, APP1, ADOBE, COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
#: More segments than any camera or program writes; each costs the decoder time however small it is.
MOST_SEGMENTS = 20_000
MOST_SCANS = 1000


def read(blob: bytes) -> Header:
    """Size, scans, orientation; ``pixels`` without applications' segments. Raises `PictureError`."""
    kept, first_scan, end = [blob[:2]], 0, len(blob)
    frame, frame_kind, parts_of_scan = b"", 0, 0
    exif, xmp, scans, position = b"", b"", 0, 2
    for _ in range(MOST_SEGMENTS):
        match = MARKER.search(blob, position)
        if match is None:
            break
        kind, start = blob[match.start() + 1], match.end()
        if kind == END:
            end = start
            break
        if kind in (0x01, START):
            position = start
            continue
        length = int.from_bytes(blob[start : start + 2], "big")
        body = blob[start + 2 : start + length]
        position = start + max(2, length)
        if kind == SCAN:
            first_scan = first_scan or match.start()
            parts_of_scan = parts_of_scan or (body[0] if body else 0)
            scans += 1
            if scans > MOST_SCANS:
                raise damaged(f"it has more than {MOST_SCANS:,} scans")
        elif kind in FRAMES:
            if frame:
                raise damaged("it has two frame headers")
            frame, frame_kind = body, kind
        elif kind == APP1:
            exif = exif or (body if body.startswith(b"Exif\0\0") else b"")
            xmp = xmp or (body if body.startswith(b"http://ns.adobe.com/xap/") else b"")
        if not first_scan and _needed(kind, body):
            kept.append(blob[match.start() : position])
    else:
        raise damaged(f"it has more than {MOST_SEGMENTS:,} segments")
    if not first_scan:
        raise truncated()
    _check_frame(frame, frame_kind)
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    kept.append(blob[first_scan:end])
    several = frame_kind not in SEQUENTIAL or parts_of_scan != frame[5]
    mode = {1: "L", 4: "CMYK"}.get(frame[5], "RGB")
    return Header(
        "JPEG", width, height, b"".join(kept), mode=mode, orientation=orientation(exif, xmp), scans=scans,
        coefficients=_coefficients(frame, width, height) if several else 0,
    )  # fmt: skip


def _check_frame(frame: bytes, kind: int) -> None:
    if not frame:
        raise truncated()
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise damaged("its frame header is too short")
    if frame[0] != 8 or kind in LOSSLESS:
        raise unsupported("is a lossless JPEG" if kind in LOSSLESS else f"is a {frame[0]}-bit JPEG")


def _needed(kind: int, body: bytes) -> bool:
    """Whether the decoder needs the segment: tables and frames; of applications only what tells
    colours apart.
    """
    if kind in (APP0, ADOBE):
        return (body.startswith(b"JFIF\0") and len(body) >= 14) or (
            body.startswith(b"Adobe") and len(body) >= 12
        )
    return not (APP1 <= kind <= 0xEF or kind == COMMENT)


def _coefficients(frame: bytes, width: int, height: int) -> int:
    """Bytes of all components' coefficients, two each, at their own sampling."""
    factors = [(byte >> 4, byte & 15) for byte in frame[7 : 7 + 3 * frame[5] : 3]]
    across = max([horizontal for horizontal, _ in factors] + [1])
    down = max([vertical for _, vertical in factors] + [1])
    samples = sum(horizontal * vertical for horizontal, vertical in factors)
    return 2 * width * height * samples // (across * down)
