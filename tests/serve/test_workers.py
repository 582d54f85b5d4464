"""`--workers N`: whichever process answers, a visitor sees one server."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from asked import form
from hostile import Visitor, running
from serve_pictures import JPEG

from lfdeploy.artifact import read
from lfdeploy.run import Run
from serve.metrics import Metrics
from serve.workers.channel import ASKED, READY, Channel
from serve.workers.summed import lasting, summed

ARTIFACT = "peer0-onnx-fp32"
TOKEN = "0123456789abcdef"
Served = tuple[str, Popen[str], list[str]]


@pytest.fixture(scope="module")
def served(tiny_run: Run) -> Iterator[Served]:
    with running(tiny_run.artifacts / ARTIFACT, "--device", "cpu", "--workers", 3, visits=False) as found:
        yield found


def children(pid: int) -> set[int]:
    """Processes that a process has started and that live."""
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def until(what: Any) -> None:
    """Ask again and again, at most for a minute."""
    waited = threading.Event()
    for _ in range(600):
        if what():
            return
        waited.wait(0.1)
    raise AssertionError(what)


def ask(url: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body, by a connection of its own."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, sent)
        with connection.getresponse() as reply:
            return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def counted(url: str) -> float:
    """How many pictures were answered, as `/metrics` says."""
    text = ask(url, "GET", "/metrics")[2].decode()
    rows = [line for line in text.splitlines() if line.startswith("lfdeploy_pictures_total")]
    return sum(float(row.split()[-1]) for row in rows if 'outcome="success"' in row)


def test_all_processes_answer_alike_and_count_together(served: Served) -> None:
    url, process, _ = served
    assert len(children(process.pid)) == 2
    before = counted(url)
    replies = [json.loads(ask(url, "POST", "/v1/classify?top=10", JPEG)[2]) for _ in range(9)]
    assert len({json.dumps(reply["top"]) for reply in replies}) == 1
    assert len({reply["request_id"][:8] for reply in replies}) == 3  # each process numbers by itself
    assert [counted(url) - before for _ in range(3)] == [9.0] * 3


@pytest.mark.slow
def test_the_page_is_the_first_process_s_and_everybody_shows_it(served: Served) -> None:
    url, _, _ = served
    visitor = Visitor(url)
    for _ in range(3):
        for method, path, status in (
            ("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/nothing", 404), ("GET", "/docs", 200),
            ("GET", "/page.js", 200), ("GET", "/health/ready", 200), ("GET", "/config", 200),
        ):  # fmt: skip
            found, headers, _ = ask(url, method, path, Accept="text/html")
            assert found == status, (method, path)
            names = [name.lower() for name in headers]
            assert len(names) == len(set(names)) and "x-content-type-options" in names
            assert path != "/" or "script-src 'self'" in headers["content-security-policy"]
        kind, answer = visitor.ask("a.jpg", JPEG, ARTIFACT)
        assert kind == "complete" and answer


@pytest.mark.slow
def test_what_is_refused_is_refused_by_everybody(served: Served) -> None:
    url, _, _ = served
    for _ in range(3):
        assert ask(url, "GET", "/", Host="elsewhere.example")[0] == 421
        assert ask(url, "POST", "/v1/classify", JPEG, Origin="http://elsewhere.example")[0] == 403
        assert ask(url, "POST", "/gradio_api/upload", b"x", Sec_Fetch_Site="cross-site")[0] == 403
        assert ask(url, "POST", f"/v2/repository/models/{ARTIFACT}/load", b"{}")[0] == 403
        # who claims to be another process is not believed
        told = {"X-Lfdeploy-From": "http 10.0.0.1", "Host": "elsewhere.example"}
        assert ask(url, "GET", "/", **told)[0] == 421


@pytest.mark.slow
def test_what_one_parser_takes_the_other_does_not_hang_on(served: Served) -> None:
    """HTTP/1.0 without a host, as load balancers ask; blanks behind a value; two hosts."""
    url, _, _ = served
    host, _, port = url.removeprefix("http://").partition(":")
    for lines, status in (
        ("GET /metrics HTTP/1.0\r\n", b"400"),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-A: b \t\r\nConnection: close\r\n", b"200"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n", b"400"),
    ):
        for _ in range(3):
            with socket.create_connection((host, int(port)), 10) as asked:
                asked.sendall(f"{lines}\r\n".encode())
                assert asked.recv(65_536).split(b" ")[1] == status, lines


@pytest.mark.slow
def test_large_and_unmeasured_bodies_pass(served: Served) -> None:
    """Uploads to the page by any process: in pieces without a length, too large, and broken off."""
    url, _, _ = served
    body, kind = form(("a.jpg", JPEG))
    for _ in range(3):
        connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        pieces = (body[start : start + 700] for start in range(0, len(body), 700))
        connection.request("POST", "/gradio_api/upload", pieces, {"Content-Type": kind}, encode_chunked=True)
        with connection.getresponse() as reply:
            assert reply.status in (200, 411), reply.read()  # Gradio wants "files", our form has "file"
        connection.close()
        large, kind_of_large = form(("a.jpg", bytes(12_000_000)))
        assert ask(url, "POST", "/gradio_api/upload", large, Content_Type=kind_of_large)[0] == 413
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as cut:
            cut.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\nx"
            )
    assert ask(url, "GET", "/health/ready")[0] == 200


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_counts_stay(tiny_run: Run) -> None:
    with running(tiny_run.artifacts / ARTIFACT, "--device", "cpu", "--workers", 2) as (url, process, said):
        for _ in range(6):
            assert ask(url, "POST", "/v1/classify", JPEG)[0] == 200
        assert counted(url) == 6
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGKILL)
        until(lambda: "another one takes its place" in "".join(said))
        assert {ask(url, "POST", "/v1/classify", JPEG)[0] for _ in range(4)} == {200}
        numbers = set()

        def both() -> bool:
            numbers.add(json.loads(ask(url, "POST", "/v1/classify", JPEG)[2])["request_id"][:8])
            return len(numbers) > 1

        until(both)
        assert counted(url) >= 10 and worker not in children(process.pid)
        left = children(process.pid)
        process.kill()  # the first itself, without a word: nobody goes on
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
def test_a_stop_finishes_what_all_processes_have_under_way(tiny_run: Run, group: bool) -> None:
    """A signal to the first process, or to all of them as terminals and systemd do it."""
    body, kind = form(*(("a.jpg", JPEG),) * 40)
    with running(tiny_run.artifacts / ARTIFACT, "--device", "cpu", "--workers", 2) as (url, process, said):
        workers = children(process.pid)
        clients = [HTTPConnection(url.removeprefix("http://"), timeout=60) for _ in range(32)]
        for client in clients:
            client.request("POST", "/v1/batch", body, {"Content-Type": kind})
        until(lambda: b"lfdeploy_pictures_total" in ask(url, "GET", "/metrics")[2])
        for connection in [HTTPConnection(url.removeprefix("http://"), timeout=60) for _ in range(8)]:
            connection.request("GET", "/health/ready")  # by then each has read those before it
            assert connection.getresponse().read() == b'{"ready":true}'
            connection.close()
        for pid in (process.pid, *workers) if group else (process.pid,):
            os.kill(pid, signal.SIGTERM)
        texts = [client.getresponse().read() for client in clients]
        for client in clients:
            client.close()
        assert process.wait(30) == 0
    assert [text.count(b"\n") for text in texts] == [40] * 32
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "Traceback" not in "".join(said)


@pytest.mark.slow
def test_an_artifact_is_replaced_in_all_processes(tiny_run: Run, tmp_path: Path) -> None:
    two = [tiny_run.artifacts / f"peer{number}-onnx-fp32" for number in (0, 1)]
    hashes = [read(path).manifest["sha256"] for path in two]
    place, token = tmp_path / "my served", tmp_path / "token"
    place.symlink_to(two[0])
    token.write_text(TOKEN)
    words = ("--device", "cpu", "--workers", 3, "--token-file", token)
    words += ("--root-path", "/demo")
    knows = {"Authorization": f"Bearer {TOKEN}"}
    with running(place, *words, visits=False) as (url, process, said):

        def answering() -> set[str]:
            return {
                json.loads(ask(url, "POST", "/v1/classify", JPEG, **knows)[2])["sha256"] for _ in range(6)
            }

        def put(number: int) -> None:
            (tmp_path / "next").symlink_to(two[number])
            os.replace(tmp_path / "next", place)

        assert ask(url, "POST", "/v1/classify", JPEG)[0] == 401
        for number in (1, 0, 1):
            put(number)
            status, _, body = ask(url, "POST", "/v2/repository/models/my%20served/load", b"{}", **knows)
            assert (status, body) == (200, b"{}")
            assert answering() == {hashes[number]}
        put(0)
        process.send_signal(signal.SIGHUP)
        until(lambda: answering() == {hashes[0]})
        assert "".join(said).count("is now") == 4  # said once and counted once, whoever did it
        text = ask(url, "GET", "/metrics", **knows)[2].decode()
        assert 'lfdeploy_swaps_total{artifact="my served",outcome="success"} 4.0' in text


@pytest.mark.slow
def test_a_worker_that_does_not_start_is_tried_again(tiny_run: Run, tmp_path: Path) -> None:
    """The artifact was exported anew, and the first process has not been told yet: nobody mixes the two."""
    two = [tiny_run.artifacts / f"peer{number}-onnx-fp32" for number in (0, 1)]
    place = tmp_path / "served"
    place.symlink_to(two[0])
    with running(place, "--device", "cpu", "--workers", 2, visits=False) as (url, process, said):
        (tmp_path / "next").symlink_to(two[1])
        os.replace(tmp_path / "next", place)
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGKILL)
        until(lambda: "a worker did not start; 1 process serves meanwhile" in "".join(said))
        assert "is another artifact by now" in "".join(said)
        process.send_signal(signal.SIGHUP)
        wanted = read(two[1]).manifest["sha256"]
        numbers = set()

        def both() -> bool:
            told = json.loads(ask(url, "POST", "/v1/classify", JPEG)[2])
            numbers.update({told["request_id"][:8]} if told["sha256"] == wanted else ())
            return len(numbers) > 1

        until(both)
    assert "Traceback" not in "".join(said)


def test_sums_are_what_one_process_would_have_counted() -> None:
    many = [Metrics() for _ in range(3)]
    one = Metrics()
    for number, metrics in enumerate(many):
        for counting in (metrics, one):
            counting.pictures.labels("a", "success").inc(number + 1)
            counting.batches.labels("a").observe(2**number)
            counting.requests.labels(f"v1:{number}", 200).inc()
    texts = [metrics.text().decode() for metrics in many]

    def rows(text: bytes | str) -> set[str]:
        lines = (text.decode() if isinstance(text, bytes) else text).splitlines()
        return {line for line in lines if "_created" not in line and not line.startswith("#")}

    assert rows(summed(texts)) == rows(one.text())
    assert rows(summed([lasting(texts[:2]), texts[2]])) >= rows(one.text()) - {
        row for row in rows(one.text()) if "under_way" in row
    }


def test_a_channel_says_what_was_said_in_order() -> None:
    ours, theirs = map(Channel, socket.socketpair())
    assert ours.send(READY) and list(theirs.messages()) == [(READY, None)]
    private = ours.connect()
    assert private is not None
    ((word, other),) = theirs.messages()
    assert word == ASKED and other is not None
    private.send(b"asked")
    assert other.recv(9) == b"asked"
    private.close()
    other.close()
    ours.close()
    assert list(theirs.messages()) == [(b"", None)]
    assert theirs.connect() is None and not theirs.send(READY)
    theirs.close()


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_before_the_last_word(tiny_run: Run) -> None:
    with running(tiny_run.artifacts / ARTIFACT, "--device", "cpu", "--workers", 2, visits=False) as (
        _,
        process,
        lines,
    ):
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGSTOP)
        process.terminate()
        assert process.wait(60) == 0
        assert not Path(f"/proc/{worker}").exists()
    assert f"worker {worker} did not end and is killed" in lines[-2] and "stopped." in lines[-1]
