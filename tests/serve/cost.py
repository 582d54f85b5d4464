"""What one request to the page costs, beside a stock Gradio page around the same predictor.

    python tests/serve/cost.py ARTIFACT [ROUNDS]

Both are real server processes on this machine, asked in turn, so that a busy machine slows both alike: trust
the ratio.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from hostile import Visitor, good_picture, running

# As Gradio's guide has it: an image in, a label out, launched on a port of its own.
STOCK = """
import sys
import gradio as gr
from lfdeploy import open_artifact
model = open_artifact(sys.argv[1], device="cpu")
def predict(picture):
    return dict(model.predict(picture, top=10).top)
page = gr.Interface(predict, gr.Image(type="pil"), gr.Label(), api_name="predict", analytics_enabled=False)
_, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
print(url, flush=True)
page.block_thread()
"""


def once(visitor: Visitor, blob: bytes, more: list[object]) -> float:
    """Seconds from the upload to the answer of one call."""
    start = time.perf_counter()
    place = json.loads(visitor.upload("a.png", blob)[1])[0]
    data = [{"path": place, "meta": {"_type": "gradio.FileData"}}, *more]
    status, body = visitor.request("POST", "/gradio_api/call/predict", json.dumps({"data": data}).encode())
    assert status == 200, (status, body)
    assert visitor.fetched(json.loads(body)["event_id"])[0] == "complete"
    return time.perf_counter() - start


def main(artifact: str, rounds: int = 200) -> None:
    """Print both costs and their ratio."""
    stock = subprocess.Popen([sys.executable, "-c", STOCK, artifact], stdout=subprocess.PIPE, text=True)
    assert stock.stdout is not None
    try:
        with running(artifact, "--device", "cpu") as (url, _, _):
            theirs, ours, blob = Visitor(stock.stdout.readline().strip()), Visitor(url), good_picture()
            spent: dict[str, list[float]] = {"lfdeploy": [], "stock Gradio": []}
            for _ in range(rounds + 10):
                spent["lfdeploy"].append(once(ours, blob, [Path(artifact).name]))
                spent["stock Gradio"].append(once(theirs, blob, []))
    finally:
        stock.terminate()
        stock.wait(30)
        stock.stdout.close()
    for name, seconds in spent.items():
        seconds[:10] = []  # warming up
        print(
            f"{name:<14} median {1e3 * statistics.median(seconds):6.1f} ms, least "
            f"{1e3 * min(seconds):6.1f} ms"
        )
    middle = [statistics.median(seconds) for seconds in spent.values()]
    least = [min(seconds) for seconds in spent.values()]
    print(f"ratio of medians {middle[0] / middle[1]:.2f}, of the least {least[0] / least[1]:.2f}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
