"""What has no pixels, or no name, has no answer: whoever cut it out or left it empty hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lfdeploy.answers import pictures_below
from lfdeploy.client import Client
from lfdeploy.errors import LfdeployError, PictureError, UsageError
from lfdeploy.images import decode, prepare


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_pillow_picture_without_pixels(size: tuple[int, int]) -> None:
    cut = Image.new("RGB", (20, 20)).crop((10, 10, 10 + size[0], 10 + size[1]))
    for picture in (Image.new("RGB", size), Image.new("L", size), cut):
        with pytest.raises(PictureError, match=f"the picture is empty .{size[0]}x{size[1]} pixels") as told:
            decode(picture)
        assert (told.value.code, told.value.status) == ("empty", 400)
        with pytest.raises(PictureError, match="the picture is empty"):
            prepare(picture, 16)
        with Client("http://127.0.0.1:9") as client, pytest.raises(LfdeployError, match="is empty"):
            client.predict(picture)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_all_that_is_below_here(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="name is empty; write a file or a folder"):
        pictures_below([name])
    assert [path.name for path in pictures_below(["."])] == ["a.png"]
