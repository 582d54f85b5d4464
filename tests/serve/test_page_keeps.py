"""What a person at the page must not lose: the picture by Reload and Back, the keyboard's place by a list."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import running
from PIL import Image
from serve_pictures import JPEG

from lfdeploy.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def visited(tiny_run: Run, page: Any) -> Iterator[tuple[str, Any]]:
    """The page of one artifact, and the browser's."""
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    with running(tiny_run.artifacts / "fused-onnx-fp32", "--device", "cpu") as (url, _, said):
        page.goto(url)
        page.locator("#photo input[type=file]").wait_for(state="attached")
        yield url, page
        assert "Traceback" not in "".join(said)


def photo(side: int) -> bytes:
    """A JPEG of noise: of 1,700 pixels square some five MB, as a telephone's."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def test_own_picture_outlasts_reload_and_back(visited: tuple[str, Any], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    _, page = visited
    answer, image = page.locator("#answer"), page.locator("#photo img")
    (tmp_path / "mine.jpg").write_bytes(photo(1700))
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "mine.jpg")
    expect(answer.locator(".lf-bars")).to_be_visible()
    expect(image).to_be_visible()
    told = answer.locator(".lf-bars").inner_text()
    page.wait_for_function("sessionStorage.getItem('lfdeploy-picture') !== null")

    def returns() -> None:
        expect(image).to_be_visible()
        expect(answer.locator(".lf-bars")).to_have_text(told, use_inner_text=True)

    page.reload()
    returns()
    page.goto("about:blank")
    page.go_back()
    returns()

    page.get_by_role("button", name="Remove Image").click()
    expect(answer).to_contain_text("The answer appears here")
    page.reload()
    expect(page.locator("#photo input[type=file]")).to_be_attached()
    expect(answer).to_contain_text("The answer appears here")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_list_keeps_the_place_of_the_keyboard(visited: tuple[str, Any], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    _, page = visited
    (tmp_path / "a.jpg").write_bytes(JPEG)
    page.locator("#many summary").click()
    page.locator("#many-files").focus()
    page.locator("#many-files").set_input_files([tmp_path / "a.jpg", tmp_path / "a.jpg"])
    expect(page.locator("#many-state")).to_contain_text("2 of 2 answered")
    expect(page.locator("#many-csv")).to_be_focused()
