"""What axe finds on the page: in each state, light and dark, on a wide screen and a narrow one.

    python tests/serve/axe.py AXE.JS PICTURE ARTIFACT_WITH_A_HEAT_MAP OTHER_ARTIFACT

AXE.JS is Deque's axe-core, as the package axe-playwright-python carries it. Prints a line a state, exits with
1 where anything was found.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ARGS, CHROMIUM
from hostile import running

FOUND = "async () => (await axe.run(document)).violations.map(v => [v.id, v.nodes[0].html.slice(0, 160)])"


def states(page: Any, picture: str, bad: str) -> Any:
    """The page brought into each state, with the state's name."""
    upload, answer = page.locator("#photo input[type=file]"), page.locator("#answer")
    upload.wait_for(state="attached")
    yield "empty"
    upload.set_input_files(picture)
    answer.locator(".lf-bars").wait_for()
    yield "answered"
    page.locator("#ask-why").click()
    page.locator("#why img").wait_for()
    yield "why"
    page.locator("#other input").click()
    page.get_by_role("option").last.click()
    answer.locator(".lf-compare").wait_for()
    yield "compare"
    page.locator("#many summary").click()
    page.locator("#code summary").click()
    page.locator("#many-files").set_input_files([picture, bad])
    page.locator("#many-table tbody tr").nth(1).wait_for()
    yield "many"
    page.get_by_role("button", name="Remove Image").click()
    upload.set_input_files(bad)
    answer.locator(".lf-error").wait_for()
    yield "error"


def main(axe: str, picture: str, *artifacts: str) -> None:
    """Every state of the page of two artifacts."""
    from playwright.sync_api import sync_playwright

    script, total = Path(axe).read_text(encoding="utf-8"), 0
    first = quote(Path(artifacts[0]).name)
    with (
        tempfile.NamedTemporaryFile(suffix=".png") as bad,
        running(*artifacts) as (url, _, _),
        sync_playwright() as play,
    ):
        bad.write(b"hello")
        bad.flush()
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                size: Any = {"width": width, "height": 844}
                page = browser.new_page(viewport=size, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
                page.goto(f"{url}/?artifact={first}")
                page.evaluate(script)
                for state in states(page, picture, bad.name):
                    page.wait_for_timeout(1000)  # until what moves stands still
                    found = page.evaluate(FOUND)
                    total += len(found)
                    print(width, scheme, state, json.dumps(found) if found else "nothing", flush=True)
                page.close()
        browser.close()
    sys.exit(total > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
