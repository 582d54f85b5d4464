"""What is hardly HTTP: each is told what is wrong as all problems are told, and the server goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping

import pytest
from asked import Api, answering
from serve_pictures import JPEG

from serve import http_limits
from serve.access import Rules
from serve.entries import Entry
from serve.state import state_of

HOST = "Host: localhost\r\n"


def post(headers: str, body: bytes = b"x") -> bytes:
    """A request of `/v1/classify` with further headers."""
    return f"POST /v1/classify HTTP/1.1\r\n{HOST}{headers}\r\n".encode() + body


def get(target: str, headers: str = HOST, method: str = "GET") -> bytes:
    """A request without a body."""
    return f"{method} {target} HTTP/1.1\r\n{headers}\r\n".encode()


CHUNKED = "Transfer-Encoding: chunked\r\n"
BAD, GONE = (400, "bad_request"), (404, "not_found")
RAW: Mapping[str, tuple[bytes, tuple[int, str]]] = {
    "no request": (b"GARBAGE\r\n\r\n", BAD),
    "null bytes": (b"\0\0\0\0\r\n\r\n", BAD),
    "a TLS greeting": (bytes.fromhex("16030100c8010000c40303") + bytes(190), BAD),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", BAD),
    "HTTP/0.9": (b"GET /v1/artifacts\r\n\r\n", BAD),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD),
    "no host": (get("/v1/artifacts", ""), BAD),
    "an empty host by HTTP/1.0": (b"GET /v1/artifacts HTTP/1.0\r\nHost:\r\n\r\n", BAD),
    "two hosts": (get("/v1/artifacts", f"{HOST}Host: evil.example\r\n"), BAD),
    "two hosts, ours last": (get("/v1/artifacts", f"Host: evil.example\r\n{HOST}"), BAD),
    "another host": (get("/v1/artifacts", "Host: evil.example\r\n"), (421, "wrong_host")),
    "length -1": (post("Content-Length: -1\r\n"), BAD),
    "length a word": (post("Content-Length: abc\r\n"), BAD),
    "length +1": (post("Content-Length: +1\r\n"), BAD),
    "two lengths": (post("Content-Length: 1\r\nContent-Length: 2\r\n"), BAD),
    "a list of lengths": (post("Content-Length: 1, 2\r\n"), BAD),
    "length 10^30": (post(f"Content-Length: {'9' * 30}\r\n"), BAD),
    "length 10^12": (post(f"Content-Length: {'9' * 12}\r\n"), (413, "too_large")),
    "length 0": (post("Content-Length: 0\r\n", b""), (400, "empty")),
    "a chunk of no number": (post(CHUNKED, b"zz\r\nx\r\n0\r\n\r\n"), BAD),
    "a chunk of -1": (post(CHUNKED, b"-1\r\nx\r\n0\r\n\r\n"), BAD),
    "a chunk of 2^72": (post(CHUNKED, b"FFFFFFFFFFFFFFFFFF\r\nx"), BAD),
    "chunks and a length": (post(f"{CHUNKED}Content-Length: 1\r\n", b"1\r\nx\r\n0\r\n\r\n"), BAD),
    "gzip as transfer": (post("Transfer-Encoding: gzip\r\n"), BAD),
    "chunks not last": (post("Transfer-Encoding: chunked, identity\r\n", b"1\r\nx\r\n0\r\n\r\n"), BAD),
    "gzip as content": (
        post("Content-Encoding: gzip\r\nContent-Length: 1\r\n"), (415, "unsupported_type")
    ),
    "a header of 200 kB": (
        post(f"X-A: {'a' * 200_000}\r\nContent-Length: 1\r\n"), (431, "head_too_large")
    ),
    "10,000 headers": (
        post("".join(f"X-{i}: a\r\n" for i in range(10_000)) + "Content-Length: 1\r\n"),
        (431, "head_too_large"),
    ),
    "an address of 100 kB": (get("/" + "a" * 100_000), (431, "head_too_large")),
    "null in a header": (post("X-A: a\0b\r\nContent-Length: 1\r\n"), BAD),
    "a space before the colon": (post("X-A : b\r\nContent-Length: 1\r\n"), BAD),
    "no colon": (post("nonsense\r\nContent-Length: 1\r\n"), BAD),
    "a folded header": (post("X-A: a\r\n b\r\nContent-Length: 1\r\n"), BAD),
    "bare line feeds": (b"GET /v1/artifacts HTTP/1.1\nHost: localhost\n\n", BAD),
    "no hexadecimal": (get("/v1/%zz"), GONE),
    "null in the path": (get("/v1/%00"), GONE),
    "no UTF-8 in the path": (get("/v1/%ff%fe"), GONE),
    "dots": (get("/v1/../../etc/passwd"), GONE),
    "an unknown method": (get("/v1/classify", method="FOO"), BAD),
    "a method in small letters": (post("Content-Length: 1\r\n").replace(b"POST", b"post"), BAD),
    "TRACE": (get("/v1/classify", method="TRACE"), (405, "method_not_allowed")),
    "CONNECT": (get("evil.example:443", method="CONNECT"), BAD),
    "bytes in the query": (b"POST /v1/classify?artifact=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD),
    "an unknown artifact": (
        post("Content-Length: 1\r\n").replace(b"classify", b"classify?artifact=%F0%9F"),
        (404, "unknown_artifact"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded(entries: dict[str, Entry]) -> object:
    """The API under this machine's names alone, as `lfdeploy serve` has it."""
    with answering(state_of(list(entries.values())), Rules(frozenset({"localhost"}))) as api:
        yield api


def said(port: int, *pieces: bytes) -> tuple[int, str, dict[str, str], bytes]:
    """What the server answers to the pieces: status, code, headers and what came of the body."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:  # it has answered and left
                break
        answer = bytearray()
        while b"\r\n\r\n" not in answer or b"}" not in answer:
            part = connection.recv(65_536)
            if not part:
                break
            answer += part
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    first, *rows = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)}
    return int(first.split()[1]), headers["x-error-code"], headers, body


@pytest.mark.parametrize("pieces", [1, 2, 500])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_another_protocol_is_passed_over(pieces: int, chunked: bool, guarded: Api) -> None:
    """As curl --http2 and Java's client make it, and as nobody does: several, one after the other."""
    size = f"{len(JPEG):x}\r\n".encode()
    body = size + JPEG + b"\r\n0\r\n\r\n" if chunked else JPEG
    framed = CHUNKED if chunked else f"Content-Length: {len(JPEG)}\r\n"
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    whole = 2 * get("/health/live", HOST + offer) + post(f"{offer}{framed}Connection: close\r\n", body)
    step = -(-len(whole) // pieces)
    with socket.create_connection(("127.0.0.1", guarded.port), 30) as connection:
        for start in range(0, len(whole), step):
            connection.sendall(whole[start : start + step])
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 3 and answer.count(b'{"live":true}') == 2
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["label"]


def test_a_check_by_http_1_0_needs_no_host(guarded: Api) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port), 30) as connection:
        connection.sendall(b"GET /health/ready HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert b" 200 OK" in answer and answer.endswith(b'{"ready":true}')


def test_a_head_with_an_offer_has_the_same_limits(guarded: Api) -> None:
    offer = "Connection: Upgrade\r\nUpgrade: h2c\r\n"
    assert said(guarded.port, post(f"{offer}Content-Length: 1\r\n"))[:2] == (415, "not_an_image")
    assert said(guarded.port, post(f"{offer}X-A: {'a' * 70_000}\r\n"))[:2] == (431, "head_too_large")
    assert said(guarded.port, post(f"{offer}{CHUNKED}", b"zz\r\n"))[:2] == BAD


@pytest.mark.parametrize("name", RAW)
def test_each_has_its_status_and_code(name: str, guarded: Api) -> None:
    sent, expected = RAW[name]
    status, code, headers, body = said(guarded.port, sent)
    assert (status, code) == expected
    told = json.loads(body)["error"]
    assert told["code"] == code and told["message"].endswith(".") and "\n" not in told["message"]
    assert headers["x-request-id"] == told["request_id"] and headers["x-content-type-options"] == "nosniff"
    assert guarded("GET", "/health/live", Host="localhost")[0] == 200


def test_a_head_without_an_end_is_not_kept(guarded: Api) -> None:
    """A header that goes on for ever is cut off, however it is divided; one that ends in time is not."""
    endless = (b"a" * 1000 for _ in range(100_000))
    assert said(guarded.port, b"GET /v1/nothing HTTP/1.1\r\nX-A: ", *endless)[:2] == (431, "head_too_large")
    whole = get("/v1/nothing", f"{HOST}X-A: {'a' * 60_000}\r\n")
    pieces = [whole[start : start + 7_000] for start in range(0, len(whole), 7_000)]
    assert said(guarded.port, *pieces)[:2] == GONE


def test_a_trailer_without_an_end_is_not_kept(guarded: Api) -> None:
    """Nor the size of a chunk: neither is of a head, nor of a body."""
    begun = get("/health/live", f"{HOST}Transfer-Encoding: chunked\r\n")
    for rest in (b"0\r\nX-A: ", b"1;"):
        with socket.create_connection(("127.0.0.1", guarded.port), 30) as sender:
            sender.sendall(begun + rest)
            with pytest.raises(OSError):  # the other side has closed
                sender.sendall(b"a" * 10_000_000)
    assert guarded("GET", "/health/live", Host="localhost")[0] == 200


def test_a_byte_does_not_keep_a_connection(guarded: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an answer, what begins no request is waited for as long as a head is."""
    monkeypatch.setattr(http_limits, "HEAD_WITHIN", 0.2)
    for more in (b"\r", b"\r\n"):
        with socket.create_connection(("127.0.0.1", guarded.port), 30) as kept:
            kept.sendall(get("/health/live"))
            assert b"200 OK" in kept.recv(65_536)
            kept.settimeout(3)  # before uvicorn's own five seconds
            kept.sendall(more)
            assert kept.recv(1) == b""


def test_a_head_that_does_not_come_is_not_waited_for(guarded: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the first one of a connection, nor one that has begun on a kept connection."""
    monkeypatch.setattr(http_limits, "HEAD_WITHIN", 0.2)
    with socket.create_connection(("127.0.0.1", guarded.port), 30) as silent:
        assert silent.recv(1) == b""  # browsers open connections in advance: nothing is said to them
    assert said(guarded.port, b"GET /v1/artifacts HTTP/1.1\r\nHost: lo")[:2] == (408, "timeout")
    with socket.create_connection(("127.0.0.1", guarded.port), 30) as kept:
        kept.sendall(get("/health/live"))
        assert b"200 OK" in kept.recv(65_536)
        kept.sendall(b"GET /v1/artifacts HTTP/1.1\r\nHost: lo")
        assert b"408 Request Timeout" in kept.recv(65_536)
        assert kept.recv(1) == b""


def test_a_slow_body_is_not_a_slow_head(guarded: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "HEAD_WITHIN", 0.2)
    with socket.create_connection(("127.0.0.1", guarded.port), 30) as sender:
        sender.sendall(post("Content-Length: 2\r\n"))
        sender.settimeout(0.6)
        with pytest.raises(TimeoutError):
            sender.recv(1)
        sender.sendall(b"y")
        sender.settimeout(30)
        assert b"415" in sender.recv(65_536)
