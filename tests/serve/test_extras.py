"""What the page has beside its answer: a comparison, the reason, many pictures, lines for programs."""

from __future__ import annotations

import base64
import csv
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asked import answering
from hostile import running
from PIL import Image
from serve_pictures import GOOD, JPEG

from export import export
from lfdeploy.artifact import Artifact
from lfdeploy.config import ExportConfig
from lfdeploy.predict import Predictor
from lfdeploy.run import Run
from serve.access import Rules
from serve.answer import Answer, classify
from serve.comparison import compared, differences_of
from serve.engine import Engine
from serve.entries import Entry, open_all
from serve.folded import snippets
from serve.render import foot, heading, some
from serve.state import state_of
from serve.why import why

FUSED, PEER = "fused-onnx-fp32", "peer0-onnx-fp32"
EVIL = "<img src=x onerror=alert(1)>"


def answered(entry: Entry, *top: tuple[str, float], ms: float = 2.0) -> Answer:
    return Answer(entry, top, model_ms=ms)


def test_two_artifacts_agree_or_do_not(entries: dict[str, Entry]) -> None:
    one = answered(entries[FUSED], ("cat", 0.7), ("dog", 0.3), ("hen", 0.0), ms=4.0)
    same = compared(one, answered(entries[PEER], ("cat", 0.65), ("dog", 0.32), ("hen", 0.03)))
    assert "They agree." in same and "Largest difference: 5.0 points, at cat." in same
    assert f"{PEER} is 2.0 times as fast" in same
    other = compared(one, answered(entries[PEER], ("dog", 0.6), ("cat", 0.4), ("hen", 0.0), ms=8.0))
    assert "They disagree: cat or dog." in other and "2.0 times as fast" in other
    assert differences_of(one, one) == "No class differs by 0.1 points."
    assert differences_of(one, answered(entries[PEER], ("x", 1.0))) == "They have other classes."


def test_nothing_is_compared_without_two_answers(entries: dict[str, Entry]) -> None:
    one = answered(entries[FUSED], ("cat", 1.0))
    assert compared(None, one) == compared(one, None) == compared(Answer(error="x"), one) == ""
    assert "cannot run" in compared(one, Answer(entries[PEER], error="peer0 cannot run here."))


def test_names_are_escaped(entries: dict[str, Entry]) -> None:
    entry = replace(entries[FUSED], key=EVIL)
    other = answered(entry, (EVIL, 0.9), ("b", 0.1))
    for text in (
        compared(answered(entry, ("b", 0.9), (EVIL, 0.1)), other),
        foot(entry),
        heading(entry, EVIL),
    ):
        assert EVIL not in text and "&lt;img" in text


def test_a_few_class_names_are_told() -> None:
    assert some(["a", "b"]) == "a or b" and some(list("abcdef")) == "a, b, c, d, e or f"
    told = some([*"abcdefghijkl", EVIL])
    assert told.startswith("a, b, c, d, e and <details") and "<summary>8 more</summary>f, g" in told
    assert EVIL not in told


@pytest.fixture(scope="module")
def explained(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The peer with a heat map."""
    place = tmp_path_factory.mktemp("explained") / "peer0-explained"
    return export(ExportConfig(peer=0, explain=True, out=str(place)), tiny_run)[0]


def test_the_reason_is_a_picture_of_the_artifact_s_own_map(
    explained: Artifact, engines: Mapping[str, Engine]
) -> None:
    (engine,) = state_of(open_all([explained], "cpu")).engines.values()
    page = why(engine, JPEG)
    found = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert found and classify(engine, JPEG).top[0][0] in page
    assert Image.open(io.BytesIO(base64.b64decode(found[1]))).width > 600
    assert "not a picture" in why(engine, b"hello") and "no picture yet" in why(engine, None)
    assert "lfdeploy export --explain" in why(engines[PEER], JPEG)
    assert "Choose one that has: seen, shown." in why(engines[PEER], JPEG, ["seen", "shown"])


@pytest.mark.parametrize("token", ["", "0123456789abcdef"])
def test_the_lines_for_programs_are_what_programs_may_run(
    token: str, entries: dict[str, Entry], tmp_path: Path
) -> None:
    """With the server's address put in as the browser does; each run by a process of its own."""
    (tmp_path / "photo.jpg").write_bytes(JPEG)

    def said(code: str) -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout.strip()

    with answering(state_of([entries[PEER]]), Rules(token=token)) as api:
        plain = [
            re.sub(r"<[^>]*>", "", text).replace("7860", str(api.port)).replace("TOKEN", token)
            for text in snippets(bool(token)).values()
        ]
        curl, *pythons, triton = (text.replace("ARTIFACT", PEER) for text in plain)
        assert len(pythons) == 2
        for python in pythons:
            assert said(python) == classify(api.state.engines[PEER], JPEG).top[0][0]
        assert said(triton).startswith("[[")
        path = re.search(r"http://[^/]*(/v1/classify[^']*)'", curl)
        assert path and ("Authorization: Bearer" in curl) is bool(token)
        assert api("POST", path[1], JPEG, Authorization=f"Bearer {token}")[0] == 200


@pytest.fixture
def page_of_two(tiny_run: Run, explained: Artifact, page: Any) -> Iterator[tuple[str, Any]]:
    """The page of an artifact with a heat map and one without, and the browser's."""
    words = [explained.path, tiny_run.artifacts / FUSED, "--device", "cpu", "--title", "What is it?"]
    with running(*words) as (url, _, said):
        page.goto(url)
        page.locator("#photo input[type=file]").wait_for(state="attached")
        yield url, page
        assert "Traceback" not in "".join(said)


@pytest.mark.slow
def test_compare_why_many_and_code_in_a_browser(
    page_of_two: tuple[str, Any], explained: Artifact, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    url, page = page_of_two
    expect(page.locator("h1")).to_have_text("What is it?")
    (tmp_path / "a.jpg").write_bytes(JPEG)
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "a.jpg")
    expect(page.locator("#answer .lf-bars")).to_be_visible()
    page.locator("#other input").click()
    page.get_by_role("option").filter(has_text="peer0-explained").last.click()
    expect(page.locator("#answer .lf-compare")).to_contain_text("agree")
    page.locator("#picker input").click()
    page.get_by_role("option").filter(has_text="peer0-explained").last.click()
    expect(page.locator("#answer")).to_contain_text("By peer0-explained")
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#why img")).to_be_visible()
    page.locator("#other input").click()
    page.get_by_role("option").filter(has_text="no other").click()
    expect(page.locator("#answer .lf-compare")).to_have_count(0)
    expect(page.locator("#why img")).to_be_visible()  # it is of what answers still

    page.locator("#code summary").click()
    expect(page.locator("#code")).to_contain_text(f"{url}/v1/classify?artifact=peer0-explained")
    page.locator("#many summary").click()
    files = {"=good.png": GOOD["alpha.png"](), "bad,.png": b"hello", "photo.jpg": JPEG}
    for name, blob in files.items():
        (tmp_path / name).write_bytes(blob)
    page.locator("#many-files").set_input_files([tmp_path / name for name in files])
    found = Predictor.open(explained.path, device="cpu").predict([files["=good.png"], files["photo.jpg"]])
    strange = sum(bool(each.unfamiliar) for each in found)
    told = f", {strange} unlike its training pictures" * bool(strange)
    expect(page.locator("#many-state")).to_have_text(
        f"2 of 3 answered by peer0-explained{told}, 1 without an answer"
    )
    expect(page.locator("#many-table tbody tr")).to_have_count(3)
    with page.expect_download() as download:
        page.locator("#many-csv").click()
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row[0] for row in rows] == ["file", "'=good.png", "bad,.png", "photo.jpg"]
    good, bad = (dict(zip(rows[0], row, strict=True)) for row in (rows[3], rows[2]))
    assert not bad["label"] and not bad["probability"] and "not a picture" in bad["error"]
    assert good["label"] and good["unfamiliar"] in ("true", "false") and not good["error"]
    assert good["artifact"] == bad["artifact"] == "peer0-explained" and len(good["sha256"]) == 64
    assert download.value.suggested_filename == "answers by peer0-explained.csv"
    names = page.locator("#many-table tbody td:nth-child(2)").all_text_contents()
    assert names == list(files)  # in the order of the files, whichever was answered first
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 860})
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    # the address is a link: another visitor sees the same artifact answer the same test picture
    page.get_by_role("button", name="Remove Image").click()
    page.get_by_role("button", name="Test picture 2:").click()
    expect(page).to_have_url(re.compile("artifact=peer0-explained.*example=2"))
    page.goto("about:blank")
    page.goto(f"{url}?artifact={FUSED}&example=2")
    expect(page.locator("#answer")).to_contain_text(f"By {FUSED}")
    expect(page.locator("#answer .lf-bars")).to_be_visible()
    page.goto(f"{url}?artifact=none&example=99")
    expect(page.locator("#answer")).to_contain_text("The answer appears here")


@pytest.mark.slow
def test_an_old_answer_is_not_taken_for_a_new_one(page_of_two: tuple[str, Any], tmp_path: Path) -> None:
    """While the server thinks, the answer before is dimmed; where it does not answer, it goes."""
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    _, page = page_of_two
    answer, held = page.locator("#answer"), []
    (tmp_path / "a.jpg").write_bytes(JPEG)
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "a.jpg")
    expect(answer.locator(".lf-bars")).to_be_visible()
    expect(answer).not_to_have_class(re.compile("lf-waiting"))

    page.route("**/gradio_api/queue/join*", lambda route: held.append(route))  # kept until it is let go
    page.get_by_role("button", name="Test picture 2:").click()
    expect(answer).to_have_class(re.compile("lf-waiting"))
    expect(answer).to_have_attribute("aria-busy", "true")
    while not held:
        page.wait_for_timeout(50)
    for route in held:
        route.continue_()
    page.unroute("**/gradio_api/queue/join*")
    expect(answer).not_to_have_class(re.compile("lf-waiting"))
    expect(answer.locator(".lf-bars")).to_be_visible()

    # several files at once are a table, wherever they are dropped
    drop = """bytes => { const d = new DataTransfer(); for (const name of ['b.jpg', 'c.jpg'])
      d.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/jpeg'})); return d }"""
    data = page.evaluate_handle(drop, list(JPEG))
    page.locator("h1").dispatch_event("drop", {"dataTransfer": data})
    expect(page.locator("#many-table tbody tr")).to_have_count(2)
    expect(page.locator("#many-state")).to_contain_text("2 of 2 answered")
    # and an artifact is not compared with itself
    page.locator("#other input").click()
    page.get_by_role("option").filter(has_text=FUSED).last.click()
    expect(answer).to_contain_text(f"{FUSED} is the one that answers. Choose another one")

    page.context.set_offline(True)
    page.get_by_role("button", name="Remove Image").click()
    expect(answer).to_contain_text("The server does not answer. Try again when it does.")
    expect(answer.locator(".lf-bars")).to_have_count(0)
    page.context.set_offline(False)
