"""From a dropped picture to its answer in a browser, beside a stock Gradio page around the same predictor.

    python tests/serve/drop.py ARTIFACT [ROUNDS]

Chromium opens either page anew each time, in turn; the clock runs in the page, from the drop until the answer
stands in it. Trust the ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ARGS, CHROMIUM
from cost import STOCK
from hostile import good_picture, running

#: Drops a file on a place and waits until the answer's place has what there is only in an answer.
DROP = """async ([bytes, place, answer]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], 'a.png', {type: 'image/png'}));
    const start = performance.now();
    document.querySelector(place).dispatchEvent(
        new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
    while (!document.querySelector(answer)) await new Promise(next => requestAnimationFrame(next));
    return performance.now() - start;
}"""
OURS = ("#heading", "#answer .lf-bars")
THEIRS = ("[aria-label^='Click to upload'], button:has(input[type=file]), .upload-container", ".output-class")


def once(browser: Any, url: str, places: tuple[str, str], blob: bytes) -> float:
    """Milliseconds of one drop on a page in a new tab: ours brings back what its tab saw last."""
    page = browser.new_page()
    page.goto(url)
    page.locator("input[type=file]").first.wait_for(state="attached")
    page.wait_for_timeout(1500)
    assert not page.locator(places[1]).count(), "an answer stands there before the drop"
    spent = float(page.evaluate(DROP, [list(blob), *places]))
    page.close()
    return spent


def main(artifact: str, rounds: int = 15) -> None:
    """The medians and their ratio."""
    from playwright.sync_api import sync_playwright

    stock = subprocess.Popen(
        [sys.executable, "-c", STOCK.replace("api_name", "live=True, api_name"), artifact],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert stock.stdout is not None
    theirs = stock.stdout.readline().strip()
    blob, times = good_picture(), ([], [])  # type: tuple[bytes, tuple[list[float], list[float]]]
    try:
        with running(artifact) as (ours, _, _), sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            for number in range(rounds + 2):  # the first two warm up
                for kept, url, places in zip(times, (ours, theirs), (OURS, THEIRS), strict=True):
                    spent = once(browser, url, places, blob)
                    if number >= 2:
                        kept.append(spent)
            browser.close()
    finally:
        stock.terminate()
        with suppress(subprocess.TimeoutExpired):
            stock.wait(10)
    mine, other = (statistics.median(part) for part in times)
    print(
        f"drop to answer, median of {rounds}: {mine:.0f} ms, stock Gradio {other:.0f} ms: {mine / other:.2f}"
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
