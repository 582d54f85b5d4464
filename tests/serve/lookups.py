"""Whom a server and its page ask in a whole session: nobody but each other.

    python tests/serve/lookups.py PICTURE ARTIFACT_WITH_A_HEAT_MAP OTHER_ARTIFACT

The server runs under strace (Debian's package), from its first import to its end; the page is brought into
each state of axe.py, and programs ask by each route. Chromium's log of its network names every address that
was asked, and by whom: what it asks for itself is told apart. Exits with 1 where the server or the page asked
anybody but this machine.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

sys.path.insert(0, str(Path(__file__).parent))
from axe import states
from conftest import ARGS, CHROMIUM
from hostile import Visitor, running

#: What a browser does for itself, and not for a page.
QUIET = [
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
    "--disable-default-apps", "--disable-domain-reliability", "--no-pings",
]  # fmt: skip
STRACE = ("strace", "-D", "-f", "-q", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o")
ADDRESS = re.compile(r'sa_family=AF_INET6?, sin6?_port=htons\((\d+)\).*?"([0-9a-fA-F.:]+)"')


def asked_by_server(trace: str) -> Counter[str]:
    """Addresses that the server or a process of it connected or sent to, with their ports."""
    return Counter(f"{host}:{port}" for port, host in ADDRESS.findall(trace))


def asked_by_browser(log: dict[str, Any]) -> tuple[Counter[str], Counter[str]]:
    """Hosts that the page asked, and those that the browser asked for itself, which has no page behind it."""
    names = {number: name for name, number in log["constants"]["logEventTypes"].items()}
    page, own = Counter[str](), Counter[str]()
    for event in log["events"]:
        told = event.get("params", {})
        address = urlsplit(told.get("url", ""))
        if names[event["type"]] == "URL_REQUEST_START_JOB" and address.scheme in (
            "http",
            "https",
            "ws",
            "wss",
        ):
            of_page = told.get("initiator", "").startswith("http") or address.hostname == "127.0.0.1"
            (page if of_page else own)[address.hostname or ""] += 1
    return page, own


def session(url: str, picture: str, log: str, first: str) -> None:
    """A visitor who does everything, in a browser of his own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play, tempfile.NamedTemporaryFile(suffix=".png") as bad:
        bad.write(b"hello")
        bad.flush()
        arguments = [*ARGS, *QUIET, f"--log-net-log={log}"]
        browser = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page()
        page.goto(f"{url}/?artifact={first}")
        for state in states(page, picture, bad.name):
            print(f"  {state}")
        page.goto(f"{url}/docs")
        browser.close()


def main(picture: str, *artifacts: str) -> None:
    """The session, then who was asked."""
    blob, name = Path(picture).read_bytes(), Path(artifacts[0]).name
    with tempfile.TemporaryDirectory() as folder:
        trace, log = Path(folder) / "trace", Path(folder) / "netlog.json"
        with running(*artifacts, under=(*STRACE, str(trace))) as (url, process, _):
            visitor = Visitor(url)
            assert visitor.request("POST", f"/v1/classify?artifact={name}", blob, "image/jpeg")[0] == 200
            assert visitor.ask("a.jpg", blob, name)[0] == "complete"
            for path in ("/v1/artifacts", "/v2", f"/v2/models/{name}", "/metrics", "/openapi.json"):
                assert visitor.request("GET", path)[0] == 200
            session(url, picture, str(log), quote(name))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        server = asked_by_server(trace.read_text(errors="replace"))
        page, own = asked_by_browser(json.loads(log.read_text()))
    print("the server asked:", dict(server) or "nobody")
    print("the page asked:", dict(page) or "nobody")
    print("the browser asked for itself:", dict(own) or "nobody")
    outside = [host for host in (*server, *page) if not host.startswith(("127.", "::1", "localhost"))]
    sys.exit(f"outside this machine: {outside}" if outside or not page else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
