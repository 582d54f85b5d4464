"""How much one file costs the others: every file of a folder through the page's API of a real server,
and `predict`.

    python tests/serve/hostile.py ARTIFACT FOLDER

While a file is answered, another visitor asks again and again with a good picture. A line a file: what it was
answered, the largest wait of the other visitor, and by how much the server's memory grew at its peak.
"""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from PIL import Image

SERVE = "from lfdeploy.cli import main; main()"


@contextmanager
def running(
    *words: object, visits: bool = True, under: Sequence[str] = ()
) -> Iterator[tuple[str, subprocess.Popen[str], list[str]]]:
    """`lfdeploy serve` on a free port: its address, its process, and the lines that it says. ``visits``: only
    once the page is there. ``under``: another command that runs it in its own process.
    """
    command = [*under, sys.executable, "-c", SERVE, "serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    lines: list[str] = []
    listening = threading.Event()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "Ctrl-C" in line:
                listening.set()
        listening.set()

    reader = threading.Thread(target=listen)
    reader.start()
    listening.wait(180)
    address = re.search(r"http://127\.0\.0\.1:\d+", "".join(lines))
    try:
        assert address, "".join(lines)
        if visits:
            urlopen(address[0], timeout=120).close()  # the page comes after the API
        yield address[0], process, lines
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join(30)
        assert process.stderr is not None
        process.stderr.close()


class Visitor:
    """Somebody at the page's API, with a connection a request."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc

    def request(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Status and body."""
        connection = HTTPConnection(self.host, timeout=120)
        try:
            connection.request(method, path, body or None, {"Content-Type": kind} if body else {})
            with connection.getresponse() as reply:
                return reply.status, reply.read()
        finally:
            connection.close()

    def upload(self, name: str, blob: bytes) -> tuple[int, bytes]:
        """The path of the uploaded file in a list, or why it was refused."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + blob + f"\r\n--{mark}--\r\n".encode()
        return self.request("POST", "/gradio_api/upload", body, f"multipart/form-data; boundary={mark}")

    def accepted(self, path: str, artifact: str) -> str:
        """The number under which a call for an uploaded file is queued."""
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, artifact]
        status, body = self.request("POST", "/gradio_api/call/predict", json.dumps({"data": data}).encode())
        assert status == 200, (status, body)
        return str(json.loads(body)["event_id"])

    def fetched(self, number: str) -> tuple[str, Any]:
        """``complete`` or ``error``, and what was answered."""
        status, body = self.request("GET", f"/gradio_api/call/predict/{number}")
        assert status == 200, (status, body)
        lines = body.decode().splitlines()
        return lines[-3].removeprefix("event: "), json.loads(lines[-2].removeprefix("data: "))

    def ask(self, name: str, blob: bytes, artifact: str) -> tuple[str, Any]:
        """Upload and call; a refused upload is ``refused`` with its sentence."""
        status, body = self.upload(name, blob)
        if status != 200:
            assert 400 <= status < 500, (status, body)
            return "refused", body.decode()
        return self.fetched(self.accepted(json.loads(body)[0], artifact))


def memory(process: int, line: str) -> float:
    """MB of a line of /proc: ``VmRSS`` or ``VmHWM``, the peak since it was last forgotten."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(rf"{line}:\s+(\d+) kB", text)
    assert found
    return int(found[1]) / 1024


def growth_during(process: int, work: Any) -> tuple[Any, float]:
    """What the work returns, and by how many MB the process grew at its peak meanwhile."""
    Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")
    before = memory(process, "VmRSS")
    result = work()
    return result, memory(process, "VmHWM") - before


def good_picture() -> bytes:
    """A small PNG."""
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "PNG")
    return file.getvalue()


def measure(
    url: str, process: int, artifact: str, files: list[Path]
) -> Iterator[tuple[str, str, float, float, float]]:
    """For each file: its name, its answer, its own seconds, the other visitor's
    longest wait, MB of growth.
    """
    visitor, other, good = Visitor(url), Visitor(url), good_picture()
    other.ask("good.png", good, artifact)
    for file in files:
        blob = file.read_bytes()
        finished, waits = threading.Event(), [0.0]

        def keep_asking(finished: threading.Event = finished, waits: list[float] = waits) -> None:
            while not finished.is_set():
                start = time.perf_counter()
                assert other.ask("good.png", good, artifact)[0] == "complete"
                waits.append(time.perf_counter() - start)

        asking = threading.Thread(target=keep_asking)
        asking.start()
        start = time.perf_counter()
        (kind, answer), growth = growth_during(
            process, lambda name=file.name, blob=blob: visitor.ask(name, blob, artifact)
        )
        spent = time.perf_counter() - start
        finished.set()
        asking.join()
        text = (
            f"{answer[0]['label']} {100 * answer[0]['probability']:.1f} %"
            if kind == "complete"
            else str(answer)
        )
        yield file.name, text, spent, max(waits), growth


def main(artifact: str, folder: str) -> None:
    """Print the table and its extremes."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    rows = []
    with running(artifact) as (url, process, lines):
        for name, text, spent, wait, growth in measure(url, process.pid, Path(artifact).name, files):
            rows.append((wait, growth, text))
            print(f"{name:<36} {spent:6.2f} s  others {wait:5.2f} s  {growth:+7.1f} MB  {text}", flush=True)
    print(
        f"{len(rows)} files; others waited at most {max(row[0] for row in rows):.2f} s; "
        f"growth at most {max(row[1] for row in rows):.0f} MB; "
        f"{'no' if 'Traceback' not in ''.join(lines) else 'A'} traceback; exit code {process.returncode}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
