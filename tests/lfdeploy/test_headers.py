"""What is decided before a decoder sees a file: odd tags, samples and sizes of every accepted format."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from costly_pictures import COSTLY, chunk, grey_tiff, saved, tiff
from PIL import Image, PngImagePlugin

from lfdeploy.colour import METHODS, square_of
from lfdeploy.decode_limits import BUDGET, check
from lfdeploy.errors import PictureError
from lfdeploy.headers import read_header
from lfdeploy.images import decode, fit, prepare

GREY = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
COLOUR = Image.fromarray(np.stack([GREY >> 8] * 3, axis=2).astype(np.uint8))


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block of raw entries."""
    rows = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + b"\0\0\0\0"


def short(value: int) -> bytes:
    return struct.pack("<HH", value, 0)


ODD = {
    "a byte": (exif((0x112, 1, 1, b"\6\0\0\0")), 6),
    "a long": (exif((0x112, 4, 1, b"\6\0\0\0")), 6),
    "text": (exif((0x112, 2, 2, b"6\0\0\0")), 1),
    "undefined": (exif((0x112, 7, 1, b"\6\0\0\0")), 1),
    "0": (exif((0x112, 3, 1, short(0))), 1),
    "9": (exif((0x112, 3, 1, short(9))), 1),
    "beside a float": (exif((0x100, 11, 1, struct.pack("<f", 3.5)), (0x112, 3, 1, short(6))), 6),
    "beside GPS of text": (exif((0x112, 3, 1, short(6)), (0x8825, 2, 4, b"abc\0")), 6),
    "said twice to be Exif": (b"Exif\0\0" + exif((0x112, 3, 1, short(6))), 6),
    "cut off": (exif((0x112, 3, 1, short(6)))[:20], 1),
    "no directory": (b"Exif\0\0II*\0\xff\xff\xff\xff", 1),
    "nothing": (b"Exif\0\0", 1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", ODD)
def test_an_odd_orientation_condemns_no_picture(name: str, kind: str) -> None:
    block, orientation = ODD[name]
    wide = COLOUR.resize((64, 40))
    given = block[6:] if kind == "PNG" else block
    header = read_header(saved(wide, kind, exif=given))
    assert header.orientation == orientation
    picture = decode(saved(wide, kind, exif=given), 16)
    assert (picture.width, picture.height) == ((40, 64) if orientation == 6 else (64, 40))


def test_orientation_of_xmp_and_of_imagemagick() -> None:
    told = PngImagePlugin.PngInfo()
    told.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="8"/>')
    assert read_header(saved(COLOUR, "PNG", pnginfo=told)).orientation == 8
    told = PngImagePlugin.PngInfo()
    told.add_text("Raw profile type exif", "\nexif\n  40\n" + exif((0x112, 3, 1, short(3))).hex(), zip=True)
    assert read_header(saved(COLOUR, "PNG", pnginfo=told)).orientation == 3


@pytest.mark.parametrize("size", [(7, 12), (12, 7), (9, 9), (8, 13)])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_square_is_the_upright_pictures(turn: int, size: tuple[int, int]) -> None:
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    upright = stored.transpose(METHODS[turn]) if turn > 1 else stored
    part = stored.crop(square_of(*stored.size, turn))
    part = part.transpose(METHODS[turn]) if turn > 1 else part
    assert np.array_equal(fit(upright, min(size)), np.asarray(part))


@pytest.mark.parametrize("kind", ["<u1", "<u2"])
def test_white_is_zero(kind: str) -> None:
    values = (GREY >> 8).astype(np.uint8) if kind == "<u1" else GREY
    upright, inverted = prepare(grey_tiff(values), 64), prepare(grey_tiff(values, photometric=0), 64)
    assert np.abs(inverted.astype(int) + upright - 255).max() <= 1 and upright[0, 0, 0] == 0


def test_a_position_beyond_any_file_is_the_pictures_fault() -> None:
    big = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**63 + 8)
    with pytest.raises(PictureError, match="truncated"):
        decode(big + bytes(64))


def test_twelve_bits_of_which_zero_is_white_are_called_nearly_white() -> None:
    with pytest.raises(PictureError, match="nearly white"):
        prepare(grey_tiff((GREY >> 4).astype(np.uint16), photometric=0), 64)


def test_twelve_bits_in_sixteen_are_right_or_refused_by_name() -> None:
    unscaled = (GREY >> 4).astype(np.uint16)
    png = saved(Image.fromarray(unscaled), "PNG")
    for blob in (png, grey_tiff(unscaled), saved(Image.fromarray((unscaled >> 2).astype(np.uint16)), "PNG")):
        with pytest.raises(PictureError, match="nearly black"):
            prepare(blob, 64)
    right = np.round(unscaled / 4095 * 255)
    for blob in (grey_tiff(unscaled, t281=(3, 1, 4095)), grey_tiff(unscaled, t341=(3, 1, 4095)),
                 png[:33] + chunk(b"sBIT", b"\x0c") + png[33:]):  # fmt: skip
        assert np.abs(prepare(blob, 64)[..., 0] - right).max() <= 1
    statistic = grey_tiff(unscaled, t281=(3, 1, 4001))
    with pytest.raises(PictureError, match="nearly black"):
        prepare(statistic, 64)


def test_dark_pictures_of_sixteen_bits() -> None:
    assert prepare(saved(Image.new("I;16", (8, 8)), "PNG"), 8).max() == 0
    dim = decode(saved(Image.fromarray(GREY >> 2), "PNG"), 64)
    assert any("darker than meant" in note for note in dim.notes)
    scaled = (GREY >> 8 << 4).astype(np.uint16)  # as PNG wants 12 significant bits: the lower ones empty
    png = saved(Image.fromarray(scaled), "PNG")
    assert np.array_equal(
        prepare(png[:33] + chunk(b"sBIT", b"\x0c") + png[33:], 64)[..., 0], np.round(scaled / 257)
    )


@pytest.mark.parametrize(
    ("dtype", "word"), [("<i4", "32-bit"), ("<i2", "signed 16-bit"), ("<u4", "32-bit"), ("<f4", "floating")]
)
def test_samples_without_a_white_are_refused_by_name(dtype: str, word: str) -> None:
    values = np.zeros((8, 8), dtype)
    kind = {"i": 2, "u": 1, "f": 3}[dtype[1]]
    with pytest.raises(PictureError, match=word):
        prepare(grey_tiff(values, t339=(3, 1, kind)), 8)


def test_odd_tags_of_tiff_condemn_no_picture() -> None:
    blob = grey_tiff(
        (GREY >> 8).astype(np.uint8), t274=(2, 2, 0x36), t282=(2, 2, 0), t34665=(4, 1, 0xFFFFFFF0)
    )
    assert np.abs(prepare(blob, 64)[..., 0].astype(int) - (GREY >> 8)).max() == 0
    with pytest.raises(PictureError, match="how wide"):
        prepare(tiff({258: (3, 1, 8)}, b""), 8)


@pytest.mark.parametrize("name", COSTLY)
def test_costly_files_are_refused_or_cost_little(name: str) -> None:
    make, word = COSTLY[name]
    blob = make()
    tracemalloc.start()
    try:
        if word:
            with pytest.raises(PictureError, match=word) as caught:
                prepare(blob, 32)
            assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
        else:
            assert prepare(blob, 32).shape == (32, 32, 3)
        # what Python holds; decoders' own is in `decode_limits`
        assert tracemalloc.get_traced_memory()[1] < 30e6 + len(blob)
    finally:
        tracemalloc.stop()


def _jpeg(width: int, height: int, **options: object) -> bytes:
    """A JPEG whose frame header says another size than it has."""
    blob = saved(COLOUR, "JPEG", **options)
    frame = blob.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    return blob[: frame + 5] + struct.pack(">HH", height, width) + blob[frame + 9 :]


def test_phone_pictures_are_not_too_large() -> None:
    check(read_header(_jpeg(16384, 12288)), 224)
    check(read_header(_jpeg(8192, 6144, progressive=True)), 224)
    for blob in (_jpeg(17000, 12288), _jpeg(9000, 6144, progressive=True)):
        with pytest.raises(PictureError, match="million pixels"):
            check(read_header(blob), 224)
    with pytest.raises(PictureError, match="million pixels"):
        check(read_header(_jpeg(16384, 12288)), None)  # whole, it would not fit
    large = Image.new("L", (8064, 6048), 128)
    assert prepare(saved(large, "JPEG", quality=50), 32).mean() == 128


def test_the_limit_is_one_of_memory() -> None:
    header = read_header(saved(COLOUR, "PNG"))
    for width, accepted in ((6800, True), (6900, False)):
        sized = header.__class__(**{**header.__dict__, "width": width, "height": width})
        assert (4 * width * width <= BUDGET) == accepted
        if accepted:
            check(sized, 32)
        else:
            with pytest.raises(PictureError, match="at most 47 million"):
                check(sized, 32)
