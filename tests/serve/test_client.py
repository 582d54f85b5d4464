"""`lfdeploy.Client` against the application: the same answers as here, problems as they are told."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from asked import Api, answering
from PIL import Image
from serve_pictures import GOOD, JPEG

from lfdeploy import Client
from lfdeploy.artifact import Artifact
from lfdeploy.client import ServerError
from lfdeploy.errors import LfdeployError
from lfdeploy.predict import Predictor
from serve.access import Rules
from serve.entries import Entry
from serve.state import state_of

PEER = "peer0-onnx-fp32"


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{api.port}") as found:
        yield found


def test_every_kind_of_picture_is_answered_as_here(
    client: Client, entries: dict[str, Entry], tmp_path: Path
) -> None:
    predictor = Predictor.open(entries[PEER].artifact.path, device="cpu")
    (tmp_path / "a.jpg").write_bytes(JPEG)
    pixels = np.asarray(Image.open(io.BytesIO(JPEG)))
    kinds = [
        tmp_path / "a.jpg", str(tmp_path / "a.jpg"), JPEG, Image.open(io.BytesIO(JPEG)), pixels,
        pixels[..., 0], *(make() for make in GOOD.values()),
    ]  # fmt: skip
    for picture in kinds:
        there, here = client.predict(picture, artifact=PEER), predictor.predict(picture)
        assert there.top == here.top and there.notes == here.notes, picture
    assert client.predict(JPEG, top=3, artifact=PEER).top == predictor.predict(JPEG, top=3).top
    assert [row["name"] for row in client.artifacts()] == list(entries) and client.ready()


def test_problems_are_errors_with_a_code(client: Client, tmp_path: Path) -> None:
    for picture, status, code in (
        (b"hello", 415, "not_an_image"),
        (b"", 400, "empty"),
        (JPEG[:300], 422, "truncated"),
    ):
        with pytest.raises(ServerError) as told:
            client.predict(picture)
        assert (told.value.status, told.value.code) == (status, code) and str(told.value).endswith(".")
    with pytest.raises(ServerError, match="There is no artifact 'x' here"):
        client.predict(JPEG, artifact="x")
    with pytest.raises(LfdeployError, match="cannot be read: No such file"):
        client.predict(tmp_path / "nowhere.jpg")
    assert client.predict(JPEG).label  # on the same connection


def test_a_connection_that_was_closed_is_made_anew(client: Client) -> None:
    client.predict(JPEG)
    assert client._connection.sock is not None
    client._connection.sock.shutdown(2)
    assert client.predict(JPEG).label


def test_a_token_and_a_full_queue(entries: dict[str, Entry]) -> None:
    state = state_of([entries[PEER]])
    with answering(state, Rules(token="0123456789abcdef")) as api:
        url = f"http://127.0.0.1:{api.port}/"
        with Client(url) as stranger, pytest.raises(ServerError, match="Send the token"):
            stranger.predict(JPEG)
        with Client(url, token="0123456789abcdef") as friend:
            assert friend.predict(JPEG).label
            state.engines[PEER].most = 0
            with pytest.raises(ServerError) as told:
                friend.predict(JPEG)
            assert (told.value.status, told.value.code, told.value.retry_after) == (429, "busy", 1)


def test_few_classes_are_no_mistake(entries: dict[str, Entry], tmp_path: Path) -> None:
    """Of three classes three are told, though five are by default."""
    held = entries[PEER].artifact
    short = Artifact(held.path, held.manifest | {"labels": ["a", "b", "c"], "familiarity": None})

    class Three:
        backend = device = "three"

        def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            row = np.array([[0.2, 0.5, 0.3]], np.float32).repeat(len(images), 0)
            return row, row

    entry = Entry(PEER, short, Predictor(short, Three()))  # type: ignore[arg-type]
    with answering(state_of([entry])) as api, Client(f"http://127.0.0.1:{api.port}") as client:
        assert [label for label, _ in client.predict(JPEG).top] == ["b", "c", "a"]


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(LfdeployError, match="Start it with: lfdeploy serve"):
            client.predict(JPEG)
        assert not client.ready()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:7860", "http://127.0.0.1:99999", "http://127.0.0.1:abc", "http://[::1", "http://a..b",
        "http://", "ftp://a", "http://:80", f"http://{'a' * 70}.org",
    ],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(LfdeployError, match=r"is no address of a server; write http://HOST:PORT"):
        Client(url)


def test_a_token_as_it_is_read_from_its_file(entries: dict[str, Entry]) -> None:
    with answering(state_of([entries[PEER]]), Rules(token="0123456789abcdef")) as api:
        client = Client(f"http://127.0.0.1:{api.port}", token="0123456789abcdef\n")
        assert client.predict(JPEG).label
        client.close()
    for token in ("\u4e00" * 20, "\u00e4" * 20, "a\nb"):
        with pytest.raises(LfdeployError, match="The token has characters"):
            Client(token=token)


@contextmanager
def another(body: bytes, status: int = 200, **headers: str) -> Iterator[str]:
    """The address of a service that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"null", b"7", b"<html>", b'{"top": 7}', b'{"top": [1]}', b'{"artifacts": 1}']
)
def test_another_service_is_none_of_ours(body: bytes) -> None:
    with another(body) as url, Client(url) as client:
        for ask in (lambda: client.predict(JPEG), client.artifacts):
            with pytest.raises(ServerError, match="No answer of lfdeploy serve") as told:
                ask()
            assert told.value.code == "foreign"
        assert not client.ready()


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [("7", 7), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", None), ("-1", None), ("", None)],
)
def test_when_to_ask_again(wait: str, seconds: float | None) -> None:
    body = b'{"error": {"code": "busy", "message": "Later."}}'
    with (
        another(body, 429, Retry_After=wait) as url,
        Client(url) as client,
        pytest.raises(ServerError) as told,
    ):
        client.predict(JPEG)
    assert (told.value.code, told.value.retry_after) == ("busy", seconds)


def test_a_busy_server_is_not_called_absent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, answers none
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
        with pytest.raises(LfdeployError, match=r"did not answer within 0.1 s. It may be busy") as told:
            client.predict(JPEG)
        assert "Start it" not in str(told.value) and not client.ready()
