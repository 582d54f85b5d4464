"""The real command, a real browser, Gradio's own client."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from serve_pictures import JPEG, plain, saved

from lfdeploy.confidence import percent
from lfdeploy.predict import Predictor
from lfdeploy.run import Run
from serve.offline import go_offline

pytestmark = pytest.mark.slow

PREDICT = "/gradio_api/call/predict"
FILE = {"meta": {"_type": "gradio.FileData"}}


def ask(url: str, *data: object) -> str:
    """Gradio's plain HTTP interface: the event stream of one call."""
    body = json.dumps({"data": data}).encode()
    with urlopen(Request(url + PREDICT, body, {"Content-Type": "application/json"}), timeout=30) as reply:
        event = json.load(reply)["event_id"]
    with urlopen(f"{url}{PREDICT}/{event}", timeout=30) as stream:
        return str(stream.read().decode())


JUMPS = """
window.jumps = [];
new PerformanceObserver((list) => list.getEntries().forEach((entry) => window.jumps.push(entry.value)))
  .observe({ type: 'layout-shift', buffered: true });
"""


def test_nothing_jumps_and_files_are_kept(served: Any, page: Any) -> None:
    """While the page comes what is there already stays in its place; at a second visit its files are there.
    Lighthouse calls a sum of 0.1 good.
    """
    from playwright.sync_api import expect

    page.add_init_script(JUMPS)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(served.url)
        expect(page.locator("#examples .lf-truth").first).to_be_visible(timeout=30_000)
        assert sum(page.evaluate("window.jumps")) < 0.05
    files = "performance.getEntriesByType('resource').filter((entry) => entry.name.includes('/assets/'))"
    sizes = page.evaluate(f"{files}.map((entry) => entry.transferSize)")
    assert len(sizes) > 20 and not any(sizes)  # the second visit's came from the browser's own store


def test_page_in_a_browser(served: Any, page: Any, tmp_path: Path, tiny_run: Run) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    files = {
        "good.jpg": JPEG,
        "bad.png": b"hello",
        "large.png": JPEG + b"\0" * 11_000_000,
        "view.tiff": saved(plain(), "TIFF"),
    }
    for name, blob in files.items():
        (tmp_path / name).write_bytes(blob)
    upload, answer, picker = (
        page.locator("#photo input[type=file]"),
        page.locator("#answer"),
        page.locator("#picker input"),
    )

    def choose(text: str) -> None:
        picker.click()
        page.get_by_role("option").filter(has_text=text).click()

    page.goto(served.url)
    upload.wait_for(state="attached")
    expect(page.locator("h1")).to_have_text("digits")
    expect(picker).to_have_value(re.compile(r"fused-onnx-fp32 · [\d.]+ % right"))
    for key in ("fused-onnx-fp32", "peer0-onnx-fp32"):
        if key == "fused-onnx-fp32":
            upload.set_input_files(tmp_path / "good.jpg")
        else:
            choose(key)
        expect(answer).to_contain_text(f"By {key} (onnxruntime on cpu)")
        found = Predictor.open(tiny_run.artifacts / key, device="cpu").predict([JPEG])[0]
        label, probability = found.top[0]
        heading, sure = label, f"{percent(probability)} probability"
        if found.unfamiliar:
            heading, sure = "Unlike its training pictures", f"Closest: {label}, {percent(probability)}"
        expect(answer.locator("h2")).to_have_text(heading)
        expect(answer.locator(".lf-sure")).to_have_text(sure)
        expect(answer.locator(".lf-bars li")).to_have_count(5)
        expect(answer).to_contain_text("Export verified")
        expect(page.locator("#foot")).to_contain_text(key)

    choose("peer0-trt-fp32")
    expect(answer).to_contain_text("peer0-trt-fp32 cannot run here:")
    choose("fused-onnx-fp32")
    expect(answer.locator(".lf-bars")).to_be_visible()

    upload.set_input_files(tmp_path / "bad.png")
    expect(answer).to_contain_text("The upload is not a picture")
    upload.set_input_files(tmp_path / "view.tiff")
    expect(answer.locator(".lf-bars")).to_be_visible()
    # and only then the next: the page may still be putting this one in its place
    page.get_by_role("button", name="Remove Image").click()
    expect(answer.locator(".lf-bars")).not_to_be_visible()
    upload.set_input_files(tmp_path / "large.png")
    expect(answer).to_contain_text("large.png has 11.0 MB; at most 10 MB are accepted")

    # A picture dropped anywhere on the page is answered, and so is one pasted.
    data = (
        "bytes => { const d = new DataTransfer(); d.items.add(new File([new Uint8Array(bytes)], "
        "'d.jpg', {type: 'image/jpeg'})); return d }"
    )
    page.locator("#heading").dispatch_event("drop", {"dataTransfer": page.evaluate_handle(data, list(JPEG))})
    expect(answer.locator(".lf-bars")).to_be_visible()
    page.get_by_role("button", name="Remove Image").click()
    expect(answer).to_contain_text("The answer appears here")
    # What holds no picture is told so: pasted text, and the address of a picture on another page.
    words = (
        "() => { const d = new DataTransfer(); d.setData('text/uri-list', 'http://a.test/b.png'); return d }"
    )
    pasted = f"new ClipboardEvent('paste', {{clipboardData: ({words})(), bubbles: true}})"
    page.evaluate(f"document.body.dispatchEvent({pasted})")
    expect(answer).to_contain_text("There is no picture in what was pasted.")
    page.locator("#heading").dispatch_event("drop", {"dataTransfer": page.evaluate_handle(words)})
    expect(answer).to_contain_text("That is the address of a picture")

    paste = (
        "bytes => document.body.dispatchEvent(new ClipboardEvent('paste', "
        f"{{clipboardData: ({data})(bytes), bubbles: true}}))"
    )
    page.evaluate(paste, list(JPEG))
    expect(answer.locator(".lf-bars")).to_be_visible()

    page.get_by_role("button", name="Remove Image").click()
    expect(answer).to_contain_text("The answer appears here")
    page.get_by_role("button", name="Test picture 2:").click()
    expect(answer.locator(".lf-bars")).to_be_visible()

    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 860})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("footer:visible").count() == 0
    assert [url for url in requests if not url.startswith((served.url, "data:", "blob:"))] == []
    # the browser notes of bad.png that it was refused
    assert [error for error in errors if "status of 415" not in error] == []

    start = time.perf_counter()
    assert served.stop(signal.SIGTERM) == 0  # while the page is still open
    assert time.perf_counter() - start < 8
    assert "Traceback" not in "".join(served.said)


def test_programs_get_the_numbers_of_predict(served: Any, tmp_path: Path, tiny_run: Run) -> None:
    go_offline()
    from gradio_client import Client, handle_file

    (tmp_path / "good.jpg").write_bytes(JPEG)
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    client = Client(served.url, verbose=False)
    for key in ("fused-onnx-fp32", "peer0-onnx-fp32"):
        told = client.predict(handle_file(tmp_path / "good.jpg"), key, api_name="/predict")
        expected = Predictor.open(tiny_run.artifacts / key, device="cpu").predict([JPEG], top=10)[0].top
        assert [(row["label"], row["probability"]) for row in told["top"]] == [
            (label, pytest.approx(p, abs=1e-6)) for label, p in expected
        ]
        assert told["artifact"] == key and told["parity"] == "pass"
    with pytest.raises(Exception, match="not a picture"):
        client.predict(handle_file(tmp_path / "bad.jpg"), api_name="/predict")
    client.close()

    secret = str(tmp_path / "good.jpg")
    for sent in (
        {"path": secret, **FILE},
        {"path": secret},
        {"path": "http://127.0.0.1:9/a.png", **FILE},
        {"path": "/etc/passwd", **FILE},
    ):
        assert "Only uploaded files are accepted" in ask(served.url, sent, "fused-onnx-fp32")
    assert "event: error" in ask(served.url, None, {"path": secret, **FILE})
    for path in (
        "/gradio_api/file=https://example.com/a.png",
        f"/gradio_api/file={secret}",
        "/gradio_api/proxy=https://example.com",
    ):
        with pytest.raises(HTTPError) as refused:
            urlopen(served.url + path, timeout=10)
        refused.value.close()
        assert refused.value.code == 403

    assert served.stop(signal.SIGINT) in (0, 130)
    assert "Traceback" not in "".join(served.said)
