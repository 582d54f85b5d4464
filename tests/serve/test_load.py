"""Many clients at once: only answers, or 429; a swap loses none and mixes none; memory is given back."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from asked import answering, form
from hostile import memory, running
from serve_pictures import BAD, GOOD, JPEG

from lfdeploy.artifact import Artifact, read
from lfdeploy.predict import Predictor
from lfdeploy.run import Run
from serve.access import Rules
from serve.entries import open_all
from serve.state import state_of

pytestmark = pytest.mark.slow
TOKEN = "0123456789abcdef"


def together(count: int, work: Callable[[], None]) -> None:
    """The same work in so many threads; the first failure is raised."""
    failures: list[BaseException] = []

    def careful() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=careful) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def ask(connection: HTTPConnection, blob: bytes = JPEG) -> tuple[int, dict[str, Any]]:
    """Status and document of one picture."""
    connection.request("POST", "/v1/classify", blob, {"Authorization": f"Bearer {TOKEN}"})
    with connection.getresponse() as reply:
        assert reply.status != 429 or int(reply.headers["Retry-After"]) >= 1
        return reply.status, json.loads(reply.read())


def test_fifty_swaps_under_32_clients(tiny_run: Run, tmp_path: Path) -> None:
    """No request fails, and no scores are told under another file's hash."""
    two = [read(tiny_run.artifacts / f"peer{number}-onnx-fp32") for number in (0, 1)]
    served = tmp_path / "served"
    served.symlink_to(two[0].path)
    wanted = {
        a.manifest["sha256"]: dict(Predictor.open(a.path, device="cpu").predict(JPEG, top=10).top)
        for a in two
    }
    state = state_of(open_all([Artifact(served, two[0].manifest)], "cpu"))
    seen: dict[str, int] = dict.fromkeys(wanted, 0)
    done = threading.Event()
    with answering(state, Rules(token=TOKEN)) as api:

        def client() -> None:
            connection = HTTPConnection("127.0.0.1", api.port, timeout=60)
            while not done.is_set():
                status, told = ask(connection)
                assert status == 200, told
                scores = wanted[told["sha256"]]
                assert all(abs(scores[row["label"]] - row["probability"]) < 1e-5 for row in told["top"])
                seen[told["sha256"]] += 1
            connection.close()

        def swaps() -> None:
            for number in range(50):
                (tmp_path / "next").symlink_to(two[(number + 1) % 2].path)
                os.replace(tmp_path / "next", served)
                status, _, body = api(
                    "POST", "/v2/repository/models/served/load", b"{}", Authorization=f"Bearer {TOKEN}"
                )
                assert status == 200, body

        clients = threading.Thread(target=lambda: together(32, client))
        clients.start()
        try:
            swaps()
        finally:
            done.set()
            clients.join()
        text = api("GET", "/metrics", Authorization=f"Bearer {TOKEN}")[2].decode()
    assert min(seen.values()) > 0
    assert f'lfdeploy_pictures_total{{artifact="served",outcome="success"}} {sum(seen.values())}.0' in text
    assert 'lfdeploy_swaps_total{artifact="served",outcome="success"} 50.0' in text
    assert 'outcome="failure"' not in text


def test_a_hundred_clients_get_answers_or_are_told_when_to_come(tiny_run: Run) -> None:
    state = state_of(open_all([read(tiny_run.artifacts / "fused-onnx-fp32")], "cpu"))
    statuses: list[int] = []
    live: list[int] = []
    with answering(state) as api:

        def client() -> None:
            connection = HTTPConnection("127.0.0.1", api.port, timeout=60)
            for _ in range(10):
                statuses.append(ask(connection)[0])
            connection.close()
            live.append(api("GET", "/health/live")[0])

        together(100, client)
    assert len(statuses) == 1000 and set(statuses) <= {200, 429} and statuses.count(200) > 100
    assert live == [200] * 100


def test_memory_and_disk_stay_as_they_were(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some thousand requests, good and bad: what grows after the first 500 is small, and nothing lies on
    disk. ``LFDEPLOY_REQUESTS=10000`` makes it as many.
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    blobs = [make() for make in GOOD.values()] + [make() for make, _ in BAD.values()][:12]
    with running(tiny_run.artifacts / "peer0-onnx-fp32", "--device", "cpu") as (url, process, said):
        connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        before, files = 0.0, set[Path]()
        for number in range(int(os.environ.get("LFDEPLOY_REQUESTS", "3000"))):
            status, told = ask(connection, blobs[number % len(blobs)])
            assert status == 200 or "error" in told
            if number == 500:
                before, files = memory(process.pid, "VmRSS"), set(tmp_path.rglob("*"))
        assert memory(process.pid, "VmRSS") - before < 20
        assert set(tmp_path.rglob("*")) == files
        connection.close()
    assert "Traceback" not in "".join(said)


def test_a_stop_finishes_what_is_under_way(tiny_run: Run) -> None:
    """32 requests of 40 pictures each, accepted before SIGTERM: 32 whole answers, then an end without
    leftovers; who comes later is refused.
    """
    body, kind = form(*(("a.jpg", JPEG),) * 40)
    with running(tiny_run.artifacts / "peer0-onnx-fp32", "--device", "cpu") as (url, process, said):
        host = url.removeprefix("http://")
        clients = [HTTPConnection(host, timeout=60) for _ in range(32)]
        for client in clients:
            client.request("POST", "/v1/batch", body, {"Content-Type": kind})
        asked = HTTPConnection(host, timeout=60)
        for _ in range(3):  # by then the requests before it were read
            asked.request("GET", "/health/ready")
            assert asked.getresponse().read() == b'{"ready":true}'
        process.send_signal(signal.SIGTERM)
        texts = [client.getresponse().read() for client in clients]
        for client in (*clients, asked):
            client.close()
        assert process.wait(30) == 0
    assert [text.count(b"\n") for text in texts] == [40] * 32
    assert all("label" in json.loads(line) for text in texts for line in text.splitlines())
    assert "Traceback" not in "".join(said)
