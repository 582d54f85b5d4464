"""One picture, one tensor: however it is given, a model sees the same pixels."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image

from lfdeploy import open_artifact
from lfdeploy.answers import write_csv
from lfdeploy.artifact import sealed
from lfdeploy.confidence import percent
from lfdeploy.errors import LfdeployError
from lfdeploy.images import prepare
from lfdeploy.predict import Prediction, Predictor
from lfdeploy.run import Run
from serve import render

ARRAY = np.random.default_rng(0).integers(0, 256, (30, 42, 3), dtype=np.uint8)
PLAIN = Image.fromarray(ARRAY)


def files() -> dict[str, bytes]:
    """Files whose pixels depend on more than their samples."""
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = PLAIN.copy()
    alpha.putalpha(PLAIN.convert("L"))
    palette = PLAIN.quantize(8)
    grey = np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16)
    large = Image.radial_gradient("L").convert("RGB").resize((900, 640))
    pictures: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "turned.png": (PLAIN, "PNG", {"exif": exif}),
        "turned.jpg": (PLAIN, "JPEG", {"exif": exif}),
        "turned.tif": (PLAIN, "TIFF", {"exif": exif}),
        "turned.webp": (PLAIN, "WEBP", {"exif": exif, "lossless": True}),
        "turned.avif": (PLAIN, "AVIF", {"exif": exif}),
        "reduced.jpg": (large, "JPEG", {"exif": exif, "quality": 95}),
        "alpha.png": (alpha, "PNG", {}),
        "palette.png": (palette, "PNG", {"transparency": 3}),
        "palette.gif": (palette, "GIF", {"transparency": 3}),
        "la.png": (alpha.convert("LA"), "PNG", {}),
        "grey16.png": (Image.fromarray(grey), "PNG", {}),
        "grey16.tif": (Image.fromarray(grey), "TIFF", {}),
        "cmyk.jpg": (PLAIN.convert("CMYK"), "JPEG", {}),
    }
    written = {}
    for name, (picture, kind, options) in pictures.items():
        blob = io.BytesIO()
        picture.save(blob, kind, **options)
        written[name] = blob.getvalue()
    return written


FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_a_pillow_picture_has_the_pixels_of_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    expected = prepare(path, 24)
    assert np.array_equal(prepare(FILES[name], 24), expected)
    with Image.open(path) as opened:
        assert np.array_equal(prepare(opened, 24), expected)
        assert np.array_equal(prepare(opened, 24), expected)  # it can be used again
    with Image.open(path) as loaded:
        loaded.load()
        assert np.abs(prepare(loaded, 24).astype(int) - expected).max() <= (3 if name == "reduced.jpg" else 0)


def test_a_picture_changed_after_it_was_opened_is_what_is_seen(tmp_path: Path) -> None:
    PLAIN.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        opened.paste((9, 9, 9), (0, 0, *opened.size))
        assert prepare(opened, 16).max() == 9


def test_arrays_are_pictures() -> None:
    expected = prepare(PLAIN, 24)
    assert np.array_equal(prepare(ARRAY, 24), expected)
    assert np.array_equal(prepare(np.asfortranarray(ARRAY), 24), expected)
    grey = ARRAY[..., 0]
    assert np.array_equal(prepare(grey, 24), prepare(np.stack([grey] * 3, axis=2), 24))
    assert np.array_equal(prepare(grey[..., None], 24), prepare(grey, 24))
    clear = np.dstack([ARRAY, np.zeros(grey.shape, np.uint8)])
    assert prepare(clear, 24).min() == 255


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ARRAY / 255, "float64; pass uint8.*Multiply by 255"),
        (ARRAY.astype(np.int64), "int64; pass uint8"),
        (ARRAY.transpose(2, 0, 1), "3x30x42.*channels last"),
        (ARRAY[..., :2], "30x42x2; pass uint8"),
        (ARRAY[:0], "0x42x3; pass uint8"),
        (np.uint8(7), "this is an uint8"),
        (7, "this is an int"),
        (None, "this is a NoneType"),
        (io.BytesIO(b"x"), r"this is a BytesIO. Give what its read\(\) returns"),
        (torch.zeros(3, 8, 8), r"this is a Tensor. Give its numpy\(\), uint8 and channels last"),
    ],
)
def test_what_is_no_picture_is_one_line(given: Any, words: str, tiny_run: Run) -> None:
    predictor = Predictor.open(tiny_run.artifacts / "peer0-onnx-fp32", device="cpu")
    for call in (given, [given]):
        with pytest.raises(LfdeployError, match=words) as caught:
            predictor.predict(call)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("top", [0, -1, 1.5, True, "2"])
def test_a_top_that_is_none_is_refused(top: Any, tiny_run: Run) -> None:
    predictor = Predictor.open(tiny_run.artifacts / "peer0-onnx-fp32", device="cpu")
    with pytest.raises(LfdeployError, match=r"top is .*whole number"):
        predictor.predict(ARRAY, top=top)


def test_one_or_many(tiny_run: Run, tmp_path: Path) -> None:
    model = open_artifact(tiny_run.artifacts / "peer0-onnx-fp32", device="cpu")
    PLAIN.save(tmp_path / "a.png")
    blob = (tmp_path / "a.png").read_bytes()
    one = model.predict(tmp_path / "a.png")
    assert isinstance(one, Prediction) and one.label and one.source == str(tmp_path / "a.png")
    for single in (str(tmp_path / "a.png"), blob, bytearray(blob), PLAIN, ARRAY):
        answer = model.predict(single)
        assert isinstance(answer, Prediction) and answer.top == one.top
    batch = np.stack([ARRAY, ARRAY[::-1]])
    mixed = model.predict([tmp_path / "a.png", blob, PLAIN, ARRAY, batch, tmp_path / "none.png"])
    assert [answer.label for answer in mixed[:4]] == [one.label] * 4 and len(mixed) == 7
    assert mixed[4].top[0] == (one.label, pytest.approx(one.top[0][1], abs=1e-6))
    assert mixed[6].error and not mixed[6].top
    fitted = np.stack([prepare(picture, model.size) for picture in batch])
    assert (
        [a.label for a in model.predict(fitted)]
        == [a.label for a in model.predict(batch)]
        == [a.label for a in mixed[4:6]]
    )
    assert model.predict([]) == []


def test_another_resize_rule_is_refused(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    place = tmp_path / "peer0-onnx-fp32"
    shutil.copytree(tiny_run.artifacts / "peer0-onnx-fp32", place)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["input"]["resize"] = manifest["input"]["resize"] | {"version": 7, "crop": "the whole picture"}
    (place / "manifest.json").write_text(json.dumps(sealed(manifest)))
    PLAIN.save(tmp_path / "a.png")
    for command in ("predict", "serve"):
        done = lf(command, place, *([tmp_path / "a.png"] if command == "predict" else ["--port", 0]))
        assert done.exit_code == 1 and "fitted by another rule" in done.output and "version 7" in done.output


def test_unread_files_are_counted(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    PLAIN.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"hello")
    done = lf("predict", tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "a.png", tmp_path / "b.png")
    assert done.exit_code == 0 and "1 of 2 files could not be read; the first:" in done.stderr
    done = lf("predict", tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "b.png")
    assert done.exit_code == 1 and "not a picture" in done.stderr


def test_a_folder_is_read_as_training_data_are(
    tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """Other names of formats count, copies that a system or a notebook keeps do not, and both are said."""
    picture = Image.new("RGB", (16, 16), (200, 10, 10))
    for name in ("a.png", "sub/b.JFIF", ".ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "in" / name, "JPEG" if "JFIF" in name else "PNG")
    (tmp_path / "in" / "notes.txt").write_text("-")
    result = lf("predict", tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "in", "--json")
    assert result.exit_code == 0, result.stderr
    shown = [Path(row["picture"]).name for row in json.loads(result.stdout)["predictions"]]
    assert shown == ["a.png", "b.JFIF"]
    assert "@eaDir" in result.stderr
    assert ".txt is no picture format" in result.stderr


def test_no_answer_is_all_or_nothing_unless_it_is() -> None:
    """As the page has it."""
    told = [percent(p) for p in (1.0, 0.99951, 0.9994, 0.5, 0.0006, 0.0004, 0.0)]
    assert told == ["100.0 %", "> 99.9 %", "99.9 %", "50.0 %", "0.1 %", "< 0.1 %", "0.0 %"]
    assert told == [render.percent(p) for p in (1.0, 0.99951, 0.9994, 0.5, 0.0006, 0.0004, 0.0)]


def test_the_table_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sure = Prediction("a.png", (("cat", 0.9),), abstain=False, unfamiliar=False)
    odd = Prediction("b.png", (("cat", 0.9),), abstain=True, unfamiliar=True)
    bad = Prediction("c.png", error="no picture")
    for answers, said in (
        ([sure], "1 row in {}\n"),
        ([sure, odd, bad], "3 rows in {}: 1 unlike the training pictures, 1 not sure, 1 without an answer\n"),
    ):
        write_csv(str(tmp_path / "t.csv"), answers, 1)
        assert capsys.readouterr().err == said.format(tmp_path / "t.csv")


def test_no_pictures_are_no_answers(tiny_run: Run) -> None:
    predictor = open_artifact(tiny_run.artifacts / "fused-onnx-fp32", device="cpu")
    logits, probabilities = predictor.run(np.zeros((0, 16, 16, 3), np.uint8))
    assert logits.shape == probabilities.shape == (0, len(predictor.labels))
    assert predictor.predict([]) == predictor.predict(np.zeros((0, 16, 16, 3), np.uint8)) == []
