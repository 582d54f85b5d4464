"""A line for each request, of those that were answered and of those that were not."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from http.client import HTTPConnection
from typing import Any, TextIO

import pytest
from asked import Api, answering
from hostile import SERVE
from serve_pictures import JPEG

from lfdeploy.run import Run
from serve.access import Rules
from serve.entries import Entry
from serve.log_lines import MOST, Lines, lines_to
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


def pipe() -> tuple[int, TextIO]:
    """One that is full before anything is written to it: its reading end, and the stream of the other."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    return reading, os.fdopen(writing, "w")


def test_a_log_that_nobody_reads_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither who writes a line nor the end; what finds no place is counted."""
    reading, stream = pipe()
    with lines_to(stream, True) as log:
        assert log is not None
        for number in range(MOST + 50):
            log.put(str(number))
    said = capsys.readouterr().err
    assert said.count("lines of --log are left out: nobody reads them") == 1
    assert "lines of --log were left out." in said
    os.close(reading)  # the writer's thread is done with the pipe, and with what waits
    log._thread.join(60)
    stream.close()


def test_a_reader_that_goes_on_has_every_line() -> None:
    reading, stream = pipe()
    found: list[bytes] = []

    def read() -> None:
        while piece := os.read(reading, 65536):
            found.append(piece)

    log = Lines(stream)
    for number in range(100):
        log.put(f"line {number}")
    reader = threading.Thread(target=read)
    reader.start()
    log.close()
    stream.close()
    reader.join()
    os.close(reading)
    assert b"".join(found).lstrip(b"x").decode().splitlines() == [f"line {number}" for number in range(100)]


class Tee:
    """A stream of somebody's own: what one can do with it is to write."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_any_stream_has_its_lines_and_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tee = Tee()
    with lines_to(tee, True) as lines:  # type: ignore[arg-type]
        assert lines is not None
        lines.put("one")
        lines.put("two")
    assert tee.text == "one\ntwo\n" and lines.lost == 0
    with lines_to(None, True) as lines:
        assert lines is not None
        lines.put("one")
    assert lines.lost == 1 and "there is no standard output" in capsys.readouterr().err


def test_a_reader_that_has_left_costs_no_answer(
    entries: dict[str, Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    reading, stream = pipe()
    os.close(reading)
    with lines_to(stream, True) as log:
        assert log is not None
        for _ in range(3):
            log.put("line")
    said = capsys.readouterr().err
    assert said.count("are left out: Broken pipe. Requests are answered all the same") == 1
    assert "3 lines of --log were left out" in said
    stream.close()
    closed = io.StringIO()
    closed.close()
    with lines_to(closed, True) as log:
        log.put("line")  # type: ignore[union-attr]
    assert "closed file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_whose_output_nobody_reads_answers_and_ends(tiny_run: Run) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", SERVE, "serve", tiny_run.artifacts / "peer0-onnx-fp32", "--port", "0"]
    with subprocess.Popen([*command, "--log"], stdout=writing, stderr=writing) as process:
        os.close(writing)
        try:
            told = b""
            while not (found := re.search(rb"http://127\.0\.0\.1:(\d+)", told)):
                select.select([reading], [], [], 120)
                told += os.read(reading, 65536)
            connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
            for _ in range(1000):  # of some 250 bytes each; the pipe takes 64 KiB
                connection.request("GET", "/v2/health/live")
                assert connection.getresponse().read() == b""
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(reading)
