"""How fast `lfdeploy serve` is beside others around the same predictor: one request, and sixteen clients.

    python tests/serve/speed.py ARTIFACT [--rounds N] [--seconds S]

LitServe is measured where it can be imported, sixteen clients where `wrk` is installed. All servers run at
once and are asked in turn, so that a busy machine slows all alike: trust the ratios.
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
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent))
from cost import STOCK, once
from hostile import Visitor, good_picture, running

from lfdeploy import open_artifact

# As LitServe's guide has it: decode, predict, encode; ``batch`` pictures at most wait ``seconds`` for others.
LITSERVE = """
import sys
import litserve as ls
from starlette.requests import Request
from lfdeploy import open_artifact
batch, seconds = int(sys.argv[3]), float(sys.argv[4])
class Api(ls.LitAPI):
    def setup(self, device):
        self.model = open_artifact(sys.argv[1], device="cpu")
    async def decode_request(self, request: Request):
        return await request.body()
    def predict(self, x):
        return self.model.predict(x, top=5)
    def encode_response(self, found):
        return {"label": found.label, "top": found.top}
api = Api(max_batch_size=batch, batch_timeout=seconds, enable_async=False)
ls.LitServer(api, accelerator="cpu", fast_queue=True).run(
    port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="critical")
"""
SCRIPT = 'wrk.method = "POST"\nlocal f = io.open("{file}", "rb")\nwrk.body = f:read("*a")\n'
SCRIPT += 'wrk.headers["Content-Type"] = "image/png"\n'


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
            ask = asker(f"http://127.0.0.1:{port}", "/predict", good_picture())
            ask()
            return
        except (OSError, AssertionError):
            time.sleep(0.2)
    raise SystemExit(f"nobody answers on port {port}")


def asker(url: str, path: str, blob: bytes) -> Callable[[], float]:
    """Seconds of one request on a kept connection."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)

    def ask() -> float:
        start = time.perf_counter()
        connection.request("POST", path, blob, {"Content-Type": "image/png"})
        with connection.getresponse() as reply:
            body = reply.read()
            assert reply.status == 200, body
        return time.perf_counter() - start

    return ask


def one_by_one(askers: dict[str, Callable[[], float]], rounds: int) -> None:
    """Median times of single requests, interleaved, and their ratios to the first."""
    spent: dict[str, list[float]] = {name: [] for name in askers}
    for number in range(rounds + 20):
        for name, ask in askers.items():
            seconds = ask()
            if number >= 20:
                spent[name].append(seconds)
    middle = {name: statistics.median(seconds) for name, seconds in spent.items()}
    ours = middle["lfdeploy /v1/classify"]
    print(f"one request, {rounds} rounds")
    for name, seconds in middle.items():
        print(f"  {name:<26} p50 {1e3 * seconds:8.2f} ms   lfdeploy / this {ours / seconds:5.2f}")


def sixteen(urls: dict[str, str], blob: bytes, seconds: float, rounds: int = 3) -> None:
    """Requests a second of sixteen clients, in turn, by wrk; `wrk` says when an answer was none."""
    if not shutil.which("wrk"):
        print("sixteen clients: not measured, wrk is not installed")
        return
    rates: dict[str, list[float]] = {name: [] for name in urls}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.png").write_bytes(blob)
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT.replace("{file}", str(Path(folder) / "a.png")), encoding="utf-8")
        for _ in range(rounds):
            for name, url in urls.items():
                command = ["wrk", "-t1", "-c16", f"-d{seconds:g}s", "-s", str(script), url]
                text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                assert "Non-2xx" not in text, (name, text)
                rates[name].append(float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0]))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ours = middle["lfdeploy /v1/classify"]
    print(f"sixteen clients, {rounds} rounds of {seconds:g} s")
    for name, rate in middle.items():
        low, high = min(rates[name]), max(rates[name])
        print(f"  {name:<26} {rate:8.0f} /s ({low:.0f} to {high:.0f})   lfdeploy / this {ours / rate:5.2f}")


def main() -> None:
    """Start all, ask all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()
    blob, name = good_picture(), Path(given.artifact).name
    model = open_artifact(given.artifact, device="cpu")

    def here() -> float:
        start = time.perf_counter()
        assert model.predict(blob).label
        return time.perf_counter() - start

    with ExitStack() as stack:
        url, _, _ = stack.enter_context(running(given.artifact, "--device", "cpu"))
        urls = {"lfdeploy /v1/classify": f"{url}/v1/classify"}
        askers = {"in this process": here, "lfdeploy /v1/classify": asker(url, "/v1/classify", blob)}
        page = Visitor(url)
        askers["lfdeploy, Gradio's API"] = lambda: once(page, blob, [name])
        if importlib.util.find_spec("litserve"):
            for label, batch, seconds in (("LitServe", 1, 0.0), ("LitServe, batch 16, 5 ms", 16, 0.005)):
                other = stack.enter_context(litserve(given.artifact, batch, seconds))
                urls[label] = f"{other}/predict"
                askers[label] = asker(other, "/predict", blob)
        stock = subprocess.Popen(
            [sys.executable, "-c", STOCK, given.artifact], stdout=subprocess.PIPE, text=True
        )
        stack.callback(stock.wait, 30)
        stack.callback(stock.terminate)
        assert stock.stdout is not None
        gradio = Visitor(stock.stdout.readline().strip())
        askers["stock Gradio"] = lambda: once(gradio, blob, [])
        one_by_one(askers, given.rounds)
        sixteen(urls, blob, given.seconds)


if __name__ == "__main__":
    main()
