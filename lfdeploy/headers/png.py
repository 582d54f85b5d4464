"""PNG: the chunks that make pixels, without text, colour profiles and further frames, whatever these hold."""

from __future__ import annotations

import struct
import zlib

from lfdeploy.headers.header import MOST_FRAMES, Header, damaged, orientation, truncated, unsupported

MAGIC = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
TEXT = (b"tEXt", b"zTXt", b"iTXt")
MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
#: libpng writes IDAT by 8 kB: 400 MB of it. Each costs the decoder time however small it is.
MOST_CHUNKS = 50_000
MOST_TEXT = 1 << 20


def read(blob: bytes) -> Header:
    """Size, mode, orientation. Raises `PictureError`."""
    kept, position, frames, bits = [MAGIC], len(MAGIC), 1, 0
    first, exif, texts, transparent = b"", b"", [], False
    for _ in range(MOST_CHUNKS):
        if position + 8 > len(blob):
            break
        length, kind = struct.unpack_from(">I4s", blob, position)
        end = position + 12 + length
        if kind in PIXELS:
            kept.append(blob[position:end])
            first = first or (blob[position + 8 : end - 4] if kind == b"IHDR" else b"")
            transparent = transparent or kind == b"tRNS"
        elif kind == b"eXIf":
            exif = blob[position + 8 : end - 4]
        elif kind == b"acTL" and length >= 4:
            frames = int.from_bytes(blob[position + 8 : position + 12], "big")
        elif kind == b"sBIT" and length >= 1:
            bits = blob[position + 8]
        elif kind in TEXT and length <= MOST_TEXT:
            texts.append((kind, blob[position + 8 : end - 4]))
        position = end
        if kind == b"IEND":
            break
    else:
        raise damaged(f"it has more than {MOST_CHUNKS:,} chunks")
    if len(first) < 13:
        raise truncated() if len(blob) < 33 else damaged("it has no image header")
    width, height, depth, colour = struct.unpack_from(">IIBB", first)
    if colour not in MODES:
        raise unsupported(f"has colour type {colour}, which PNG does not know")
    mode = (
        "I;16"
        if (colour, depth) == (0, 16)
        else "RGBA"
        if transparent and colour in (2, 3)
        else MODES[colour]
    )
    exif = exif or _raw_profile(texts)
    turned = orientation(exif, _xmp(texts))
    frames = min(max(1, frames), MOST_FRAMES + 1)
    return Header("PNG", width, height, b"".join(kept), mode, turned, frames, depth=depth, bits=bits)


def _xmp(texts: list[tuple[bytes, bytes]]) -> bytes:
    for kind, body in texts:
        if kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            return _inflated(body[20:].lstrip(b"\0")) if body[18:19] == b"\1" else body
    return b""


def _raw_profile(texts: list[tuple[bytes, bytes]]) -> bytes:
    """EXIF as ImageMagick writes it: hexadecimal text after three lines."""
    for kind, body in texts:
        name, _, value = body.partition(b"\0")
        if name == b"Raw profile type exif" and kind != b"iTXt":
            text = _inflated(value[1:]) if kind == b"zTXt" else value
            try:
                return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
            except ValueError:
                return b""
    return b""


def _inflated(body: bytes) -> bytes:
    """At most `MOST_TEXT` bytes of what was deflated; nothing where it is damaged."""
    try:
        return zlib.decompressobj().decompress(body, MOST_TEXT)
    except zlib.error:
        return b""
