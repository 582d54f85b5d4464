"""The real server process: nothing that a visitor sends stops it, and a stop loses no answer."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from costly_pictures import COSTLY
from hostile import Visitor, good_picture, growth_during, running
from serve_pictures import BAD, GOOD

from lfdeploy.errors import UsageError
from lfdeploy.run import Run
from serve.proxy import Below, parts_of

ARTIFACT = "peer0-onnx-fp32"
FILE = {"meta": {"_type": "gradio.FileData"}}
JOIN, CALL = "/gradio_api/queue/join", "/gradio_api/call/predict"
# Gradio's page names it from the root; without it nothing lacks
RESIZER = "/static/js/iframeResizer.contentWindow.min.js"
MALFORMED: list[tuple[str, object]] = [
    *[
        (JOIN, {"data": [None, ARTIFACT], "fn_index": index, "session_hash": "a"})
        for index in (30, 40, 50, -1, 10**30, "x", None, True)
    ],
    *[
        (JOIN, {"data": data, "fn_index": 1, "session_hash": "a"})
        for data in ("data:...", 123, [1], None, {})
    ],
    *[
        (CALL, {"data": data})
        for data in ("data:...", 123, [1], None, {}, ["data:image/png;base64,xx", ARTIFACT])
    ],
    *[(CALL, {"data": [picture, ARTIFACT]}) for picture in (7, [1], {"path": 5}, {"path": "a", "meta": 3})],
    (JOIN, {"data": [99], "fn_index": 0, "session_hash": "a"}),
    (JOIN, {"data": [None, ARTIFACT], "fn_index": 1, "session_hash": {"a": 1}}),
    (JOIN, {"data": [None, ARTIFACT], "fn_index": 1, "session_hash": "a", "trigger_id": "x"}),
    ("/gradio_api/run/predict", {"data": [None, ARTIFACT], "fn_index": 0}),
    ("/gradio_api/api/predict", {"data": [None, ARTIFACT]}),
    ("/gradio_api/call/nope", {"data": []}),
    ("/gradio_api/call/v2/nope", {}),
    ("/gradio_api/call/v2/predict", {"nope": 1}),
    ("/gradio_api/component_server", {"session_hash": "a", "component_id": 99, "fn_name": "x", "data": 1}),
    (CALL, b"{"),
    (CALL, b"[" * 100_000),
    (CALL, b" " * 2_000_000),
]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("", ("", "", "")),
        ("/demo", ("", "", "/demo")),
        ("/a/b/", ("", "", "/a/b")),
        ("https://x.org:8/a/", ("https", "x.org:8", "/a")),
    ],
)
def test_root_paths(given: str, parts: tuple[str, str, str]) -> None:
    assert parts_of(given) == parts


@pytest.mark.parametrize("given", ["demo", "//x.org", "/a b", "ftp://x.org", "/<script>", "https://"])
def test_what_is_no_root_path(given: str) -> None:
    with pytest.raises(UsageError, match="--root-path is"):
        parts_of(given)


@pytest.mark.parametrize(
    ("root_path", "sent", "path", "host", "seen"),
    [
        ("", {}, "/x", None, "/x"),
        ("/demo", {"host": "h:1"}, "/x", "h:1/demo", "/x"),
        ("/demo", {"host": "h:1"}, "/demo/x", "h:1/demo", "/x"),
        ("/demo", {"host": "h:1"}, "/demonstration", "h:1/demo", "/demonstration"),
        (
            "",
            {"host": "h", "x-forwarded-prefix": "/demo", "x-forwarded-host": "out.org"},
            "/x",
            "out.org/demo",
            "/x",
        ),
        ("", {"host": "h", "x-forwarded-prefix": '/"><script>'}, "/x", None, "/x"),
        ("https://out.org/a", {"host": "h", "x-forwarded-host": "evil.org"}, "/a", "out.org/a", "/"),
    ],
)
def test_below(root_path: str, sent: dict[str, str], path: str, host: str | None, seen: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in sent.items()]
    scope = {"type": "http", "path": path, "raw_path": path.encode(), "headers": headers}
    outer = Below(None, root_path)._outside(scope)  # type: ignore[arg-type]
    told = dict(outer["headers"]).get(b"x-forwarded-host")
    assert outer["path"] == seen and (told.decode() if told else None) == (
        host if host else sent.get("x-forwarded-host")
    )


@pytest.mark.parametrize(("path", "place"), [("/demo", "/demo/"), ("/demo?a=1", "/demo/?a=1")])
def test_the_path_without_its_slash_leads_to_the_page(path: str, place: str) -> None:
    """Addresses on the page are relative to it."""
    from starlette.testclient import TestClient

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    answer = TestClient(Below(app, "/demo")).get(path, follow_redirects=False)
    assert answer.status_code == 307 and answer.headers["location"] == place


@pytest.mark.slow
def test_malformed_requests_and_a_stop_with_32_answers_under_way(served: Any) -> None:
    visitor = Visitor(served.url)
    for path, body in MALFORMED:
        status, answer = visitor.request(
            "POST", path, body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        assert 400 <= status < 500, (path, body, status, answer)
        assert b"\n" not in answer and b"Traceback" not in answer and answer.endswith(b"."), (
            path,
            body,
            answer,
        )
    for boundary in ("a" * 5000, "", "abc"):
        status, _ = visitor.request(
            "POST", "/gradio_api/upload", b"x", f"multipart/form-data; boundary={boundary}"
        )
        assert 400 <= status < 500
    for path in ("/gradio_api/queue/data?session_hash=nope", f"{CALL}/nope", "/?page=nope"):
        status, _ = visitor.request("GET", path)
        assert 400 <= status < 500

    place = json.loads(visitor.upload("a.png", good_picture())[1])[0]
    numbers = [visitor.accepted(place, ARTIFACT) for _ in range(32)]
    served.process.send_signal(signal.SIGTERM)
    answers: list[str] = []
    fetching = [
        threading.Thread(target=lambda n=n: answers.append(Visitor(served.url).fetched(n)[0]))
        for n in numbers
    ]
    for thread in fetching:
        thread.start()
    for thread in fetching:
        thread.join()
    assert answers == ["complete"] * 32
    assert served.process.wait(30) == 0
    assert "Traceback" not in "".join(served.said)


@pytest.mark.slow
def test_no_file_costs_more_than_its_share(served: Any) -> None:
    visitor, files = Visitor(served.url), {name: (make, "") for name, make in GOOD.items()} | BAD | COSTLY
    visitor.ask("good.png", good_picture(), ARTIFACT)
    for name, (make, word) in files.items():
        blob = make()
        (kind, answer), growth = growth_during(
            served.process.pid, lambda name=name, blob=blob: visitor.ask(name, blob, ARTIFACT)
        )
        assert growth < 200, (name, growth)
        if word:
            assert kind in ("error", "refused") and (word in str(answer) or kind == "refused"), (
                name,
                kind,
                answer,
            )
        else:
            assert kind == "complete", (name, answer)
    assert visitor.ask("good.png", good_picture(), ARTIFACT)[0] == "complete"
    assert served.stop(signal.SIGTERM) == 0
    assert "Traceback" not in "".join(served.said)


@pytest.fixture
def proxied(tiny_run: Run, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A server started with the words of the parameter, and a reverse proxy that shows it below /demo:
    their addresses.
    """
    words, strips = request.param
    with running(tiny_run.artifacts / ARTIFACT, "--device", "cpu", *words) as (url, _, _):
        target = urlsplit(url).netloc

        class Proxy(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                if not self.path.startswith("/demo/"):
                    self.send_error(404)
                    return
                inner = HTTPConnection(target, timeout=60)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
                headers = dict(self.headers.items()) | {
                    "X-Forwarded-Host": self.headers["Host"],
                    "Connection": "close",
                }
                headers |= {} if words else {"X-Forwarded-Prefix": "/demo"}
                inner.request(
                    self.command, self.path.removeprefix("/demo") if strips else self.path, body, headers
                )
                reply = inner.getresponse()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.end_headers()
                while block := reply.read1(65536):
                    self.wfile.write(block)
                inner.close()

            do_POST = do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield url, f"http://127.0.0.1:{proxy.server_port}/demo"
        proxy.shutdown()
        proxy.server_close()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    "proxied",
    [
        (["--root-path", "/demo"], True),
        pytest.param((["--root-path", "/demo"], False), marks=pytest.mark.wide),
        pytest.param(([], True), marks=pytest.mark.wide),
    ],
    indirect=True,
)
def test_below_a_path_in_a_browser(proxied: tuple[str, str], page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    inner, outer = proxied
    expect.set_options(timeout=30_000)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda sent: requests.append(sent.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(f"{outer}/")
    (tmp_path / "a.png").write_bytes(good_picture())
    page.locator("#photo input[type=file]").wait_for(state="attached")
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "a.png")
    expect(page.locator("#answer .lf-bars")).to_be_visible()
    page.get_by_role("button", name="Remove Image").click()
    expect(page.locator("#answer")).to_contain_text("The answer appears here")
    page.get_by_role("button", name="Test picture 2:").click()
    expect(page.locator("#answer .lf-bars")).to_be_visible()
    outside = {url for url in requests if not url.startswith((f"{outer}/", "data:", "blob:"))}
    assert {urlsplit(url).path for url in outside} <= {RESIZER}
    assert [error for error in errors if "404" not in error] == []

    connection = HTTPConnection(urlsplit(inner).netloc, timeout=30)
    told = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "pics.example.org",
        "X-Forwarded-Prefix": "/demo",
    }
    connection.request("GET", "/config", headers=told)
    assert json.load(connection.getresponse())["root"] == "https://pics.example.org/demo"
    connection.close()
