"""A line for each request, of those that were answered and of those that were not."""

from __future__ import annotations

import io
import json
import socket
from datetime import UTC, datetime
from typing import Any

import pytest
from asked import Api, answering
from serve_pictures import JPEG

from serve.access import Rules
from serve.entries import Entry
from serve.request_log import RequestLog
from serve.state import state_of

TOKEN = "0123456789abcdef"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_request_has_one(entries: dict[str, Entry], capsys: pytest.CaptureFixture[str]) -> None:
    key = f"Bearer {TOKEN}"
    with answering(state_of(list(entries.values())), Rules(token=TOKEN), log=True) as api:
        status, headers, body = api("POST", "/v1/classify?top=1", JPEG, Authorization=key)
        assert (status, json.loads(body)["request_id"]) == (200, headers["x-request-id"])
        api("POST", "/v1/classify", b"none", Authorization=key)
        api("GET", "/v1/artifacts")
        api("GET", "/nothing", Authorization=key)
        found = lines(capsys)
    told = [(line["method"], line["path"], line["status"], line.get("code")) for line in found]
    assert told == [
        ("POST", "/v1/classify", 200, None),
        ("POST", "/v1/classify", 415, "not_an_image"),
        ("GET", "/v1/artifacts", 401, "unauthorized"),
        ("GET", "/nothing", 200, None),
    ]
    first = found[0]
    assert (first["request_id"], first["received"], first["sent"]) == (
        headers["x-request-id"], len(JPEG), len(body),
    )  # fmt: skip
    assert [line["level"] for line in found] == ["info", "warning", "warning", "info"]
    assert first["milliseconds"] > 0 and first["client"] == "127.0.0.1"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(first["time"])).total_seconds()) < 600
    assert len({line["request_id"] for line in found}) == 4
    assert TOKEN not in json.dumps(found)


def test_a_client_that_leaves_is_a_warning(
    entries: dict[str, Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    def left(api: Api) -> None:
        with socket.create_connection(("127.0.0.1", api.port)) as sock:
            head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
            sock.sendall(head + JPEG[:10])
            # the answer to a second connection proves that the first one's bytes were read before it closed
            api("GET", "/health/live")

    with answering(state_of(list(entries.values())), log=True) as api:
        left(api)
    cut = [line for line in lines(capsys) if line["method"] == "POST"]
    assert [(line["level"], line["received"] <= 10) for line in cut] == [("warning", True)]


def test_a_reader_that_has_left_costs_no_answer(entries: dict[str, Entry]) -> None:
    state = state_of(list(entries.values()))
    with answering(state, log=True) as api:
        assert api("GET", "/health/live")[0] == 200
    stream = io.StringIO()
    stream.close()
    RequestLog(lambda *_: None, stream)._write({"status": 200})  # type: ignore[arg-type, return-value]
