"""What a picture file says of itself, read without a decoder: from this is decided whether it is decoded
at all.

A format is one file. Each reader walks its own structure in bounded steps, whatever the file claims, and
hands on only what makes pixels, so that no text, profile, or odd tag costs memory or condemns a
sound picture.
"""

from __future__ import annotations

from lfdeploy.errors import PictureError
from lfdeploy.headers import avif, jpeg, png, small, tiff
from lfdeploy.headers.header import MOST_FRAMES, Header, orientation

__all__ = ["MOST_FRAMES", "Header", "orientation", "read_header"]

ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF pictures are accepted"
HEIC = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_header(blob: bytes) -> Header:
    """The header of a file of an accepted format. Raises `PictureError` with a sentence that lacks
    its subject.
    """
    if blob.startswith(b"\xff\xd8"):
        return jpeg.read(blob)
    if blob.startswith(b"\x89PNG"):
        return png.read(blob)
    if blob.startswith((b"GIF87a", b"GIF89a")):
        return small.gif(blob)
    if blob.startswith(b"BM"):
        return small.bmp(blob)
    if blob.startswith(b"RIFF") and blob[8:12] == b"WEBP":
        return small.webp(blob)
    if blob.startswith(TIFF):
        return tiff.read(blob)
    if blob[4:8] == b"ftyp":
        brands = [
            blob[8:12],
            *(blob[at : at + 4] for at in range(16, min(int.from_bytes(blob[:4], "big"), 256), 4)),
        ]
        if {b"avif", b"avis"} & set(brands):
            return avif.read(blob)
        if HEIC & set(brands):
            raise PictureError("heic", f"is a HEIC picture. Save it as JPEG first: {ACCEPTED}.", 415)
    raise PictureError("not_an_image", f"is not a picture: {ACCEPTED}.", 415)
