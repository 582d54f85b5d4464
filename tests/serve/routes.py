"""Every file of a folder by every way in: `/v1`, `/v2`, the page's API, and `lfdeploy predict`.

    python tests/serve/routes.py ARTIFACT FOLDER

All must say the same of a file, to the bit. A line for each with its statuses, the CPU time that `/v1` cost
the server, and by how many MB it grew at its peak; meanwhile `/health/live` is asked again and again.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from hostile import Visitor, growth_during, memory, running
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from lfdeploy.predict import Predictor

Told = tuple[int, Any]


def by_v1(visitor: Visitor, blob: bytes, artifact: str) -> Told:
    """Status, and scores by label or the sentence."""
    status, body = visitor.request("POST", f"/v1/classify?artifact={artifact}&top=1", blob, "image/any")
    document = json.loads(body)
    if status != 200:
        return status, document["error"]["message"]
    return status, (document["label"], document["probability"])


def by_v2(client: InferenceServerClient, blob: bytes, artifact: str, labels: list[str]) -> Told:
    """The same by the Open Inference Protocol."""
    given = InferInput("encoded", [1], "BYTES")
    given.set_data_from_numpy(np.array([blob], dtype=object))
    try:
        scores = client.infer(artifact, [given]).as_numpy("probabilities")[0]
    except InferenceServerException as error:
        return int(str(error.status() or "500")), error.message()
    return 200, (labels[int(scores.argmax())], float(scores.max()))


def by_page(visitor: Visitor, name: str, blob: bytes, artifact: str) -> Told:
    """The same by Gradio's API: an upload, and a call."""
    kind, told = visitor.ask(name, blob, artifact)
    if kind == "complete":
        return 200, (told[0]["label"], told[0]["probability"])
    return 400, told.get("error", told) if isinstance(told, dict) else told


def by_predict(predictor: Predictor, blob: bytes) -> Told:
    """The same in this process."""
    told = predictor.predict(blob, top=1)
    return (400, told.error[:1].upper() + told.error[1:]) if told.error else (200, told.top[0])


def cpu(process: int) -> float:
    """Seconds of CPU that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def watch_liveness(host: str, over: threading.Event, waits: list[float]) -> None:
    """Ask `/health/live` until it is over."""
    connection = HTTPConnection(host, timeout=60)
    while not over.is_set():
        start = time.perf_counter()
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        waits.append(time.perf_counter() - start)
        over.wait(0.01)
    connection.close()


def main(artifact: str, folder: str) -> None:
    """The table, and what was seen at most."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    predictor, key, waits, over = (
        Predictor.open(artifact, device="cpu"),
        Path(artifact).name,
        [],
        threading.Event(),
    )
    seen: dict[str, list[float]] = {"refused": [], "answered": [], "grown": []}
    apart, broken = [], []
    with running(artifact, "--device", "cpu") as (url, process, said):
        visitor, client = Visitor(url), InferenceServerClient(urlsplit(url).netloc, network_timeout=120.0)
        by_page(visitor, "warm.png", files[0].read_bytes(), key)
        resting = memory(process.pid, "VmRSS")
        live = threading.Thread(target=watch_liveness, args=(urlsplit(url).netloc, over, waits))
        live.start()
        for file in files:
            blob, before = file.read_bytes(), cpu(process.pid)
            first, grown = growth_during(process.pid, lambda blob=blob: by_v1(visitor, blob, key))
            spent = cpu(process.pid) - before
            told = [
                first, by_v2(client, blob, key, predictor.labels), by_page(visitor, file.name, blob, key),
                by_predict(predictor, blob),
            ]  # fmt: skip
            seen["answered" if first[0] == 200 else "refused"].append(spent)
            seen["grown"].append(grown)
            apart += [file.name] if len({str(what) for _, what in told}) > 1 else []
            broken += [file.name] if any(status >= 500 for status, _ in told) else []
            statuses = " ".join(str(status) for status, _ in told)
            print(f"{file.name:<34} {statuses}  {1e3 * spent:5.0f} ms  {grown:+6.1f} MB  {told[0][1]}")
        over.set()
        live.join()
        kept = memory(process.pid, "VmRSS") - resting
    print(f"{len(files)} files by four ways; told apart: {apart or 'none'}; 5xx: {broken or 'none'}")
    print(
        f"CPU at most: refused {1e3 * max(seen['refused'], default=0):.0f} ms, answered "
        f"{1e3 * max(seen['answered'], default=0):.0f} ms; grown at most {max(seen['grown']):.0f} MB, kept "
        f"{kept:.0f} MB; liveness p99 {1e3 * float(np.quantile(waits, 0.99)):.0f} ms of {len(waits)}; "
        f"traceback: {'Traceback' in ''.join(said)}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
