"""Decoded pictures that are kept: the pixels that decoding gives, whatever became of the cache."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lfdeploy import images, split_arrays
from lfdeploy.config import DataConfig, ExportConfig, TrainConfig
from lfdeploy.data import load
from lfdeploy.errors import UsageError
from lfdeploy.images import prepare
from lfdeploy.pixel_cache import PixelCache
from lfdeploy.split_arrays import Files, file_digest

SIZE = 32


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of a dozen JPEGs each, of several sizes."""
    random = np.random.default_rng(0)
    for number in range(36):
        place = tmp_path / "photos" / f"class {number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        side = 40 + number
        noise = random.integers(0, 60, (side, side + 7, 3)) + 60 * (number % 3)
        Image.fromarray(noise.astype(np.uint8)).save(place / f"{number}.jpg")
    return tmp_path / "photos"


def listed(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.jpg"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, in order."""
    found: list[Path] = []

    def noted(path: Path, size: int, notes: list[str] | None = None) -> images.Pixels:
        found.append(path)
        return prepare(path, size, notes)

    monkeypatch.setattr(split_arrays, "prepare", noted)
    return found


def test_pixels_are_those_of_decoding(photos: Path, tmp_path: Path) -> None:
    """Read back by this process and by one that opens it later; under another name too."""
    cache = PixelCache(tmp_path / "cache", SIZE)
    for path in listed(photos):
        cache.add(file_digest(path), prepare(path, SIZE))
    cache.flush()
    for each in (cache, PixelCache(tmp_path / "cache", SIZE)):
        for path in listed(photos):
            image = each.get(file_digest(path))
            assert image is not None and (image == prepare(path, SIZE)).all()
    assert PixelCache(tmp_path / "cache", SIZE + 1).get(file_digest(listed(photos)[0])) is None


def test_data_with_a_cache_are_the_same_data(photos: Path, tmp_path: Path, decoded: list[Path]) -> None:
    plain = load(DataConfig(data=str(photos), image_size=SIZE))
    decoded.clear()
    config = DataConfig(data=str(photos), image_size=SIZE, cache=str(tmp_path / "cache"))
    first = load(config)
    assert sorted(decoded) == listed(photos) and first.fingerprint == plain.fingerprint
    decoded.clear()
    (photos / "class 0" / "0.jpg").rename(photos / "class 0" / "another.jpg")
    again = load(config)
    assert decoded == [] and again.fingerprint == plain.fingerprint
    assert (np.asarray(again.train.images[:]) == np.asarray(plain.train.images[:])).all()


def test_what_does_not_fit_into_memory_is_mapped(
    photos: Path, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfdeploy.data.CACHED_BYTES", 0)
    config = DataConfig(data=str(photos), image_size=SIZE, cache=str(tmp_path / "cache"))
    data = load(config)
    decoded.clear()
    plain = load(DataConfig(data=str(photos), image_size=SIZE))
    decoded.clear()
    assert isinstance(data.train.images, Files) and data.fingerprint == plain.fingerprint
    order = np.random.default_rng(1).permutation(len(data.train))
    assert (data.train.images[order] == np.asarray(plain.train.images[order])).all()
    assert decoded == []


@pytest.mark.parametrize("fault", ["pixels lost", "a bit", "half an index", "index lost", "no pixels at all"])
def test_a_damaged_cache_costs_time_alone(fault: str, photos: Path, tmp_path: Path) -> None:
    config = DataConfig(data=str(photos), image_size=SIZE, cache=str(tmp_path / "cache"))
    before = load(config).fingerprint
    cache = PixelCache(tmp_path / "cache", SIZE)
    if fault == "pixels lost":
        os.truncate(cache.pixels, SIZE * SIZE * 3 * 5 + 100)
    elif fault == "a bit":
        with cache.pixels.open("r+b") as file:
            file.seek(1000)
            file.write(b"\0\xff\0\xff")
    elif fault == "half an index":
        os.truncate(cache.index, 48 * 10 + 7)
    else:
        (cache.index if fault == "index lost" else cache.pixels).unlink()
    assert load(config).fingerprint == before
    assert load(config).fingerprint == before  # and what was written in its place is right


def test_a_row_is_written_once(photos: Path, tmp_path: Path) -> None:
    """Also where none are left to flush, and by two caches that know nothing of each other."""
    caches = [PixelCache(tmp_path / "cache", SIZE) for _ in range(2)]
    images = np.random.default_rng(0).integers(0, 256, (128, SIZE, SIZE, 3), np.uint8)
    for cache in (caches[0], caches[0], caches[1]):
        for number, image in enumerate(images):
            if cache.get(f"{number:032d}".encode()) is None:
                cache.add(f"{number:032d}".encode(), image)
        cache.flush()
    assert caches[0].index.stat().st_size == 128 * 48


def test_arrays_have_nothing_to_keep(coloured_npz: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--cache"):
        load(DataConfig(data=str(coloured_npz), cache=str(tmp_path / "cache")))
    assert not (tmp_path / "cache").exists() or not any((tmp_path / "cache").iterdir())


def test_many_writers(photos: Path, tmp_path: Path) -> None:
    """Caches beside each other, each with all pictures: rows never mix."""
    paths = listed(photos)
    right = {file_digest(path): prepare(path, SIZE) for path in paths}

    def write(number: int) -> None:
        cache = PixelCache(tmp_path / "cache", SIZE)
        for file, image in list(right.items())[number:] + list(right.items())[:number]:
            cache.add(file, image)
            if number % 2:
                cache.flush()
        cache.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    cache = PixelCache(tmp_path / "cache", SIZE)
    for file, image in right.items():
        found = cache.get(file)
        assert found is not None and (found == image).all()


def test_a_full_disk_is_a_line(photos: Path, tmp_path: Path) -> None:
    """Where the file may not grow, all is decoded, and said once."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from lfdeploy.config import DataConfig; from lfdeploy.data import load\n"
        "print(load(DataConfig(data=sys.argv[1], image_size=32, cache=sys.argv[2])).fingerprint)"
    )
    assert resource.RLIMIT_FSIZE
    words = [sys.executable, "-c", code, str(photos), str(tmp_path / "cache")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == load(DataConfig(data=str(photos), image_size=SIZE)).fingerprint
    assert done.stderr.count("takes no pictures") == 1


def test_a_folder_that_cannot_be(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    load(DataConfig(data=str(photos), image_size=SIZE, cache=str(tmp_path / "file")))
    assert "takes no pictures" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["named", pytest.param("beside the runs", marks=pytest.mark.slow)])
def test_an_export_decodes_nothing(
    where: str, photos: Path, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run knows of its cache: what training decoded, later commands read; the network is the same."""
    from export import export
    from training import train
    from training.scores import evaluate

    settings = {"data": str(photos), "image_size": SIZE, "arch": "resnet8", "epochs": 1, "batch_size": 8}
    plain = train(TrainConfig(**settings), "without", tmp_path / "runs")
    assert not (tmp_path / "runs" / ".pixels").exists()  # for so few
    monkeypatch.setattr("lfdeploy.pixel_cache.MANY", 36)
    cache = {"cache": str(tmp_path / "cache")} if where == "named" else {}
    run = train(TrainConfig(**settings, **cache), "with", tmp_path / "runs")
    assert (tmp_path / "runs" / ".pixels").exists() == (where != "named")
    assert run.weights.read_bytes() == plain.weights.read_bytes()
    decoded.clear()
    export(ExportConfig(peer=0), run)
    evaluate(str(run.path))
    assert decoded == []


@pytest.mark.parametrize("setting", [None, "none"])
def test_nothing_is_kept_where_none_is_asked_for(
    setting: str | None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfdeploy.pixel_cache.MANY", 36)
    load(DataConfig(data=str(photos), image_size=SIZE, cache=setting), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
