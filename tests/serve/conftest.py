"""Artifacts of the tiny run, opened; and the real server process for the slow tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from asked import Api, answering

from lfdeploy.artifact import Artifact, read, sealed
from lfdeploy.run import Run
from serve.engine import Engine
from serve.entries import Entry, open_all
from serve.state import state_of

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="session")
def artifacts(tiny_run: Run) -> tuple[Artifact, Artifact]:
    """A peer and the fused network."""
    return read(tiny_run.artifacts / "peer0-onnx-fp32"), read(tiny_run.artifacts / "fused-onnx-fp32")


@pytest.fixture(scope="session")
def entries(artifacts: tuple[Artifact, Artifact]) -> dict[str, Entry]:
    """The two, opened on the CPU, by key."""
    return {entry.key: entry for entry in open_all(artifacts, "cpu")}


@pytest.fixture(scope="session")
def engines(entries: dict[str, Entry]) -> Mapping[str, Engine]:
    """Their engines, by key."""
    return state_of(list(entries.values())).engines


@pytest.fixture(scope="session")
def api(entries: dict[str, Entry]) -> Iterator[Api]:
    """The two artifacts, answering programs; for those who change nothing of it."""
    with answering(state_of(list(entries.values()))) as found:
        yield found


@pytest.fixture
def own_api(entries: dict[str, Entry]) -> Iterator[Api]:
    """The same for one test alone."""
    with answering(state_of(list(entries.values()))) as found:
        yield found


@pytest.fixture
def changed(artifacts: tuple[Artifact, Artifact], tmp_path: Path) -> Callable[..., Artifact]:
    """A copy of the peer's artifact under another name, its manifest changed:

    ``changed("name", precision="int8")``.
    """

    def copy(name: str, **values: object) -> Artifact:
        place = tmp_path / "artifacts" / name
        shutil.copytree(artifacts[0].path, place)
        (place / "manifest.json").write_text(json.dumps(sealed(artifacts[0].manifest | values)))
        return read(place)

    return copy


@dataclass(frozen=True)
class Served:
    """A running `lfdeploy serve`."""

    url: str
    process: subprocess.Popen[str]
    said: list[str]

    def stop(self, signal: int) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(signal)
        return self.process.wait(20)


@pytest.fixture
def served(tiny_run: Run, changed: Callable[..., Artifact]) -> Iterator[Served]:
    """The tiny run's peer and fused network, and an engine that no machine can run, behind the real command
    on a free port.
    """
    engine = changed(
        "peer0-trt-fp32",
        format="trt",
        engine={"package": "tensorrt-rtx", "version": "0", "compute_capabilities": []},
        parity={"verdict": "unverified", "reason": "no GPU where it was built", "checks": []},
    )
    command = Path(sys.executable).with_name("lfdeploy")
    names = [tiny_run.artifacts / "peer0-onnx-fp32", tiny_run.artifacts / "fused-onnx-fp32", engine.path]
    process = subprocess.Popen(
        [command, "serve", *names, "--port", "0", "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )
    said: list[str] = []
    found = threading.Event()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C" in line:
                found.set()
        found.set()

    reader = threading.Thread(target=listen)
    reader.start()
    found.wait(120)
    address = re.search(r"http://127\.0\.0\.1:\d+", "".join(said))
    try:
        assert address, "".join(said)
        urlopen(address[0], timeout=120).close()  # the page comes after the API
        yield Served(address[0], process, said)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)
        reader.join(20)
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture
def page() -> Iterator[Any]:
    """A browser's empty page; skipped without Chromium, but not in CI."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium; set CHROMIUM")
        pytest.skip("no chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser.new_page(viewport={"width": 1280, "height": 860})
        browser.close()
