"""The one path from bytes to pixels, on real files of every accepted kind and many that are not."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lfdeploy.errors import PictureError
from lfdeploy.images import decode, fit, fit_all, prepare


def picture(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[:height, :width]
    rgb = np.stack(
        [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], axis=2
    ).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    blob = io.BytesIO()
    image.save(blob, kind, **options)
    return blob.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG", "AVIF"])
def test_accepted_kinds(kind: str) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind in ("JPEG", "AVIF") else {}
    wanted = fit(picture(), 32).astype(int)
    found = prepare(encoded(picture(), kind, **lossless), 32).astype(int)
    assert np.abs(found - wanted).mean() < {"JPEG": 12, "AVIF": 12, "GIF": 25}.get(kind, 0.01)


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation(turn: int) -> None:
    upright = picture(40, 24)
    undo = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[turn]
    stored = upright
    for step in undo:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = turn
    found = decode(encoded(stored, "PNG", exif=exif), 16)
    assert (found.width, found.height) == (40, 24)
    assert np.array_equal(fit(found.image, 16), fit(upright, 16))


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    found = prepare(encoded(Image.fromarray(grey), "PNG"), 32)
    assert np.array_equal(found[..., 0], np.round(grey / 257).astype(np.uint8))


def test_transparency_goes_on_white() -> None:
    rgba = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert prepare(encoded(rgba, "PNG"), 16).min() == 255
    half = Image.new("LA", (16, 16), (0, 128))
    assert abs(int(prepare(encoded(half, "PNG"), 16)[0, 0, 0]) - 127) <= 1
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([9, 9, 9] + [0] * 765)
    assert prepare(encoded(palette, "PNG", transparency=0), 16).min() == 255


def test_cmyk_equals_its_rgb_twin() -> None:
    wanted = prepare(encoded(picture(64, 64), "PNG"), 32).astype(int)
    found = prepare(encoded(picture(64, 64, "CMYK"), "JPEG", quality=98), 32).astype(int)
    assert np.abs(found - wanted).mean() < 6


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 2000), (20000, 2), (6000, 4000), (3, 3)])
def test_any_shape(width: int, height: int) -> None:
    assert (
        prepare(encoded(Image.new("RGB", (width, height), (7, 80, 200)), "PNG"), 24).tolist()
        == [[[7, 80, 200]] * 24] * 24
    )


def test_fit_is_the_centred_square_with_antialiasing() -> None:
    image = picture(90, 60)
    box = image.crop((15, 0, 75, 60))
    assert np.array_equal(fit(image, 20), np.asarray(box.resize((20, 20), Image.Resampling.BILINEAR)))
    checker = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    assert np.abs(fit(checker, 8).astype(int) - 128).max() <= 2  # aliasing would give 0 or 255


def test_pixels_at_size_are_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    assert fit_all(pixels, 32) is pixels
    assert np.array_equal(prepare(encoded(Image.fromarray(pixels[0]), "PNG"), 32), pixels[0])


def test_reduced_jpeg_decoding_changes_almost_nothing() -> None:
    blob = encoded(picture(1600, 1200), "JPEG", quality=95)
    whole = fit(decode(blob).image, 32).astype(int)
    assert np.abs(prepare(blob, 32).astype(int) - whole).max() <= 3


def _png_header(width: int, height: int) -> bytes:
    return encoded(Image.new("1", (width, height)), "PNG")


REFUSED = {
    "empty": (lambda: b"", 400),
    "truncated": (lambda: encoded(picture(200, 200), "JPEG")[:-200], 422),
    "half a jpeg": (lambda: (lambda b: b[: len(b) // 2])(encoded(picture(200, 200), "JPEG")), 422),
    "half a png": (lambda: (lambda b: b[: len(b) // 2])(encoded(picture(200, 200), "PNG")), 422),
    "too many pixels": (lambda: _png_header(9400, 9400), 413),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    "html": (lambda: b"<html><script>alert(1)</script>", 415),
    "text": (lambda: b"hello", 415),
    "zip": (lambda: b"PK\x03\x04" + bytes(100), 415),
    "pdf": (lambda: b"%PDF-1.7 and more", 415),
    "heic": (lambda: b"\x00\x00\x00\x18ftypheic" + bytes(40), 415),
    "png header only": (lambda: b"\x89PNG\r\n\x1a\n", 422),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
    "float tiff": (lambda: encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), 415),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_with_one_sentence(name: str, tmp_path: Path) -> None:
    make, status = REFUSED[name]
    path = tmp_path / "upload.jpg"
    path.write_bytes(make())
    with pytest.raises(PictureError) as caught:
        prepare(path, 32)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_huge_pictures_are_refused_from_the_header() -> None:
    blob = _png_header(30000, 30000)
    tracemalloc.start()
    with pytest.raises(PictureError, match="million pixels"):
        prepare(blob, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="No such file"):
        decode(tmp_path / "none.png")
