"""How fast `lfdeploy serve` is beside others around the same predictor: one request, and sixteen clients.

    python tests/serve/speed.py ARTIFACT [--rounds N] [--requests N] [--seconds S]

LitServe is measured where it can be imported, sixteen clients where `wrk` is installed. In each round every
server is started alone, since some are busy while nobody asks, and measured for a few seconds, so that a busy
machine slows all alike: trust the ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent))
from cost import STOCK, once
from hostile import Visitor, good_picture, running

from lfdeploy import open_artifact

# As LitServe's guide has it: decode, predict, encode; ``batch`` pictures at most wait ``seconds`` for others.
LITSERVE = """
import sys
import litserve as ls
from lfdeploy import open_artifact
class Api(ls.LitAPI):
    def setup(self, device):
        self.model = open_artifact(sys.argv[1], device="cpu")
    def decode_request(self, request):
        return request["file"].file.read()
    def predict(self, x):
        return self.model.predict(x, top=5)
    def encode_response(self, found):
        return {"label": found.label, "top": found.top}
if __name__ == "__main__":
    api = Api(max_batch_size=int(sys.argv[3]), batch_timeout=float(sys.argv[4]))
    ls.LitServer(api, accelerator="cpu", fast_queue=True).run(
        port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="critical")
"""
SCRIPT = 'wrk.method = "POST"\nlocal f = io.open("{file}", "rb")\nwrk.body = f:read("*a")\n'
SCRIPT += 'wrk.headers["Content-Type"] = "{kind}"\n'
OURS, TWO = "lfdeploy /v1/classify", "lfdeploy, 2 workers"
MARK = "a-mark-that-no-picture-has"
FORM = f"multipart/form-data; boundary={MARK}"


def form(blob: bytes) -> bytes:
    """The picture as a form, which is what LitServe takes files by."""
    head = f'--{MARK}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n'
    return f"{head}Content-Type: image/png\r\n\r\n".encode() + blob + f"\r\n--{MARK}--\r\n".encode()


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def litserve(artifact: str, batch: int, seconds: float) -> Iterator[str]:
    """LitServe on a free port; killed with its group, whose workers outlive it."""
    port = free_port()
    words = [artifact, str(port), str(batch), str(seconds)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.py"
        path.write_text(LITSERVE, encoding="utf-8")
        process = subprocess.Popen([sys.executable, str(path), *words], start_new_session=True)
        try:
            wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            subprocess.run(["pkill", "-9", "-s", str(process.pid)], check=False)
            process.wait(30)


def wait_for(port: int) -> None:
    """Until somebody listens there and answers a picture."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            ask = asker(f"http://127.0.0.1:{port}", "/predict", form(good_picture()), FORM)
            ask()
            return
        except (OSError, AssertionError):
            time.sleep(0.2)
    raise SystemExit(f"nobody answers on port {port}")


def asker(url: str, path: str, blob: bytes, kind: str = "image/png") -> Callable[[], float]:
    """Seconds of one request on a kept connection."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)

    def ask() -> float:
        start = time.perf_counter()
        connection.request("POST", path, blob, {"Content-Type": kind})
        with connection.getresponse() as reply:
            body = reply.read()
            assert reply.status == 200, body
        return time.perf_counter() - start

    return ask


def rate(url: str, path: str, blob: bytes, kind: str, seconds: float) -> float:
    """Requests a second of sixteen clients, by wrk, all of them answered."""
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder) / "body", Path(folder) / "post.lua"
        body.write_bytes(blob)
        script.write_text(SCRIPT.replace("{file}", str(body)).replace("{kind}", kind), encoding="utf-8")
        command = ["wrk", "-t1", "-c16", f"-d{seconds:g}s", "-s", str(script), f"{url}{path}"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text, text
    return float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0])


@contextmanager
def ours(artifact: str, workers: int = 1) -> Iterator[str]:
    """`lfdeploy serve`."""
    with running(artifact, "--device", "cpu", "--workers", workers) as (url, _, _):
        yield url


@contextmanager
def gradio(artifact: str) -> Iterator[str]:
    """Gradio's own server."""
    process = subprocess.Popen([sys.executable, "-c", STOCK, artifact], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def main() -> None:
    """Rounds of all, then the medians and their ratios to ours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="single ones of each round")
    parser.add_argument("--seconds", type=float, default=4, help="of sixteen clients in each round")
    given = parser.parse_args()
    blob, name = good_picture(), Path(given.artifact).name
    model = open_artifact(given.artifact, device="cpu")

    def here() -> float:
        start = time.perf_counter()
        assert model.predict(blob).label
        return time.perf_counter() - start

    servers: dict[str, tuple[Callable[[str], Any], str, bytes, str]] = {
        OURS: (ours, "/v1/classify", blob, "image/png"),
        TWO: (partial(ours, workers=2), "/v1/classify", blob, "image/png"),
    }
    if importlib.util.find_spec("litserve"):
        for label, batch, seconds in (("LitServe", 1, 0.0), ("LitServe, batch 16, 5 ms", 16, 0.005)):
            servers[label] = (partial(litserve, batch=batch, seconds=seconds), "/predict", form(blob), FORM)
    single: dict[str, list[float]] = {}
    many: dict[str, list[float]] = {}

    def measure(label: str, ask: Callable[[], float]) -> None:
        times = [ask() for _ in range(given.requests + 20)][20:]
        single.setdefault(label, []).append(statistics.median(times))

    for _ in range(given.rounds):
        measure("in this process", here)
        for label, (start, path, body, kind) in servers.items():
            with start(given.artifact) as url:
                measure(label, asker(url, path, body, kind))
                if shutil.which("wrk"):
                    many.setdefault(label, []).append(rate(url, path, body, kind, given.seconds))
                if label == OURS:
                    visitor = Visitor(url)
                    measure("lfdeploy, Gradio's API", partial(once, visitor, blob, [name]))
        with gradio(given.artifact) as url:
            measure("stock Gradio", partial(once, Visitor(url), blob, []))
    told("one request, ms", {label: [1e3 * t for t in times] for label, times in single.items()})
    told("sixteen clients, requests/s", many)


def told(what: str, values: dict[str, list[float]]) -> None:
    """The median of the rounds, their range, and ours relative to it."""
    if not values:
        print(f"{what}: not measured, wrk is not installed")
        return
    print(f"{what}: median of {len(values[OURS])} rounds, least to most")
    base = statistics.median(values[OURS])
    for label, found in values.items():
        middle = statistics.median(found)
        spread = f"{min(found):.2f} to {max(found):.2f}"
        print(f"  {label:<26} {middle:8.2f}  ({spread})   lfdeploy / this {base / middle:5.2f}")


if __name__ == "__main__":
    main()
