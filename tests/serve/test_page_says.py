"""What the page takes and does not take, it says; and a remark costs nobody the answer that stands there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import running
from serve_pictures import JPEG

from lfdeploy.run import Run

pytestmark = pytest.mark.slow

PASTED = """([place, bytes]) => {
    const data = new DataTransfer();
    if (bytes) data.items.add(new File([new Uint8Array(bytes)], 'p.jpg', {type: 'image/jpeg'}));
    else data.setData('text/plain', 'words');
    const event = new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true});
    document.querySelector(place).dispatchEvent(event);
}"""


@pytest.fixture
def visited(tiny_run: Run, page: Any) -> Iterator[tuple[str, Any]]:
    """The page of two artifacts, and the browser's."""
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    names = [tiny_run.artifacts / name for name in ("fused-onnx-fp32", "peer0-onnx-fp32")]
    with running(*names, "--device", "cpu") as (url, _, said):
        page.goto(url)
        page.locator("#photo input[type=file]").wait_for(state="attached")
        yield url, page
        assert "Traceback" not in "".join(said)


def drop(page: Any, *files: Path) -> None:
    """Real files and folders, as from the desktop."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 60, "data": data})


def test_a_folder_among_pictures(visited: tuple[str, Any], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    _, page = visited
    folder, one, two = tmp_path / "holiday", tmp_path / "one.jpg", tmp_path / "two.jpg"
    folder.mkdir()
    for file in (one, two, folder / "inside.jpg"):
        file.write_bytes(JPEG)
    drop(page, one, folder, two)
    expect(page.locator("#many-state")).to_contain_text("2 of 3 answered")
    expect(page.locator("#many-table .lf-failed")).to_have_count(1)
    expect(page.locator("#many-table .lf-failed")).to_contain_text("holiday")
    expect(page.locator("#many-table .lf-failed")).to_contain_text("It is a folder")
    drop(page, folder)
    expect(page.locator("#answer")).to_contain_text("holiday: It is a folder. Choose the pictures in it.")


def test_a_file_that_has_gone(visited: tuple[str, Any], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    _, page = visited
    files = [tmp_path / f"{number}.jpg" for number in range(40)]  # two requests
    for file in files:
        file.write_bytes(JPEG)
    held: list[Any] = []
    page.route("**/v1/batch*", lambda route: route.continue_() if held else held.append(route))
    drop(page, *files)
    while not held:
        page.wait_for_timeout(50)
    files[39].unlink()
    drop(page, files[0], files[1])  # while it is at work
    expect(page.locator("#many-state")).to_contain_text("2 that came meanwhile not taken")
    held[0].continue_()
    expect(page.locator("#many-state")).to_contain_text("39 of 40 answered")
    expect(page.locator("#many-state")).to_contain_text("2 that came meanwhile not taken")
    expect(page.locator("#many-table .lf-failed")).to_contain_text("It cannot be read")


def test_a_remark_costs_no_answer(visited: tuple[str, Any], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    _, page = visited
    answer = page.locator("#answer")
    page.evaluate(PASTED, ["#picker input", list(JPEG)])  # a picture is no text for the field
    expect(answer.locator(".lf-bars")).to_be_visible()
    expect(page.locator("#photo img")).to_be_visible()
    page.evaluate(PASTED, ["body", None])
    expect(answer).to_contain_text("There is no picture in what was pasted.")
    expect(answer.locator(".lf-bars")).to_be_visible()
    (tmp_path / "large.png").write_bytes(JPEG + bytes(11_000_000))
    drop(page, tmp_path / "large.png")
    expect(answer).to_contain_text("large.png has 11.0 MB")
    expect(answer.locator(".lf-mention")).to_have_count(1)
    expect(answer.locator(".lf-bars")).to_be_visible()
    page.get_by_role("button", name="Remove Image").click()
    expect(answer).to_contain_text("The answer appears here")
    page.wait_for_function("document.activeElement.closest('#photo') !== null")


def test_a_remark_outlasts_the_answer_that_gradio_draws_late(visited: tuple[str, Any]) -> None:
    from playwright.sync_api import expect

    _, page = visited
    answer, held = page.locator("#answer"), list[Any]()
    page.route("**/upload*", lambda route: held.append(route))
    page.evaluate(PASTED, ["#picker input", list(JPEG)])
    expect(answer.locator(".lf-bars")).to_be_visible()  # though Gradio has no file yet
    page.evaluate("document.querySelector('#answer [role=status]').dataset.first = 'yes'")
    page.evaluate(PASTED, ["body", None])
    expect(answer).to_contain_text("There is no picture in what was pasted.")
    while not held:
        page.wait_for_timeout(50)
    held[0].continue_()
    expect(answer.locator("[role=status]:not([data-first])")).to_be_visible()
    expect(answer.locator(".lf-bars")).to_be_visible()
    expect(answer).to_contain_text("There is no picture in what was pasted.")


def test_a_link_to_what_is_not_here(visited: tuple[str, Any]) -> None:
    from playwright.sync_api import expect

    url, page = visited
    page.goto(f"{url}?artifact=nope&example=99")
    answer = page.locator("#answer")
    expect(answer).to_contain_text("There is no artifact 'nope' here: fused-onnx-fp32 answers")
    expect(answer).to_contain_text("no test picture 99 here")
