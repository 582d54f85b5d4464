"""Which artifacts a page offers, and what the command says when it cannot."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from starlette.testclient import TestClient

from lfdeploy.artifact import Artifact, of_run
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.run import Run
from serve.entries import Entry, find, open_all, preferred
from serve.guard import REFUSED, Guard
from serve.server import hello, listening, serve


def test_newest_run_by_default_and_names(tiny_run: Run) -> None:
    runs = tiny_run.path.parent
    assert {"peer0-onnx-fp32", "fused-onnx-fp32"} <= {artifact.name for artifact in find((), runs)}
    twice = find(["fused-onnx-fp32", tiny_run.artifacts / "fused-onnx-fp32"], runs)
    assert [artifact.name for artifact in twice] == ["fused-onnx-fp32"]
    with pytest.raises(LfdeployError, match="There is no artifact 'nope'"):
        find(["nope"], runs)


def test_no_artifacts_says_how_to_make_one(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    shutil.copytree(
        tiny_run.path, tmp_path / "bare", ignore=shutil.ignore_patterns("artifacts", "checkpoint")
    )
    (tmp_path / "latest").symlink_to("bare")
    done = lf("serve", "--runs", tmp_path)
    assert (
        done.exit_code == 1
        and "lfdeploy export" in done.output
        and done.output.splitlines()[0] == "Run: bare (the newest)"
        and done.output.count("\n") == 2
    )
    assert lf("serve", "--runs", tmp_path / "none").exit_code == 1


def test_a_changed_file_is_listed_and_not_run(
    changed: Callable[..., Artifact], entries: dict[str, Entry]
) -> None:
    artifact = changed("peer0-onnx-fp32", sha256="0" * 64)
    (entry,) = open_all([artifact], "cpu")
    assert entry.predictor is None and "sha256" in entry.reason
    assert re.fullmatch(r"peer0-onnx-fp32 · [\d.]+ % right, cannot run here", entry.choice)
    assert preferred([entry, entries["peer0-onnx-fp32"]]) is entries["peer0-onnx-fp32"]


def test_a_verified_one_is_preferred(changed: Callable[..., Artifact], entries: dict[str, Entry]) -> None:
    doubtful = changed(
        "fused-doubtful", target="fused", parity={"verdict": "unverified", "reason": "no GPU", "checks": []}
    )
    (entry,) = open_all([doubtful], "cpu")
    assert entry.predictor is not None and re.fullmatch(
        r"fused-doubtful · [\d.]+ % right · unverified", entry.choice
    )
    assert preferred([entry, *entries.values()]).key == "fused-onnx-fp32"
    assert preferred([entry, entries["peer0-onnx-fp32"]]).key == "peer0-onnx-fp32"


def test_a_run_stands_for_its_artifacts(tiny_run: Run) -> None:
    runs, all_of_it = tiny_run.path.parent, [artifact.name for artifact in of_run(tiny_run)]
    assert len(all_of_it) > 1
    for given in ("tiny", tiny_run.path, str(tiny_run.path)):
        assert [artifact.name for artifact in find([given], runs)] == all_of_it
    assert [a.name for a in find([tiny_run.artifacts / "fused-onnx-fp32", "tiny"], runs)][
        0
    ] == "fused-onnx-fp32"
    with pytest.raises(LfdeployError, match="There is no artifact 'nope'"):
        find(["nope"], runs)


def test_equal_names_are_told_apart(
    artifacts: tuple[Artifact, Artifact], changed: Callable[..., Artifact]
) -> None:
    other = changed("peer0-onnx-fp32", run=artifacts[0].manifest["run"] | {"name": "other"})
    keys = [entry.key for entry in open_all([artifacts[0], other, artifacts[1], artifacts[0]], "cpu")]
    assert keys == [
        "tiny/peer0-onnx-fp32",
        "other/peer0-onnx-fp32",
        "fused-onnx-fp32",
        "tiny/peer0-onnx-fp32 (2)",
    ]


def test_greeting_names_address_artifacts_and_verdicts(
    entries: dict[str, Entry], artifacts: tuple[Artifact, Artifact]
) -> None:
    shown = hello(
        [*entries.values(), Entry("engine", artifacts[0], reason="no GPU")], "127.0.0.1", 7860
    ).splitlines()
    assert shown[0] == "lfdeploy serve: http://127.0.0.1:7860  (Ctrl-C stops it)"
    assert "  fused-onnx-fp32: export verified; answers unless another one is asked for" in shown
    assert "  peer0-onnx-fp32: export verified" in shown and "cannot run here: no GPU" in shown[-1]


def test_a_taken_port_says_what_to_type(tiny_run: Run, lf: Callable[..., Result]) -> None:
    with listening("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        done = lf("serve", "--runs", tiny_run.path.parent, "--port", port)
    assert done.exit_code == 1 and f"Port {port} is taken" in done.output and "--port 0" in done.output
    with pytest.raises(LfdeployError, match="Cannot listen on"), listening("203.0.113.7", 0):
        pass


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": "0"}, "port is '0'"), ({"port": -1}, "port is -1"), ({"port": 65536}, "from 0 to 65535"),
        ({"workers": 0}, "workers is 0"), ({"workers": 2.0}, "workers is 2.0"),
        ({"port": True}, "port is True"),
    ],
)  # fmt: skip
def test_what_is_no_port_and_no_number_of_workers(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        serve(["nowhere"], **given)


def test_nothing_that_runs_is_an_error(changed: Callable[..., Artifact], lf: Callable[..., Result]) -> None:
    done = lf("serve", changed("peer0-onnx-fp32", sha256="0" * 64).path, "--port", 0)
    assert done.exit_code == 1 and "None of the artifacts can run here" in done.output


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("/", False),
        ("/gradio_api/queue/join", False),
        ("/gradio_api/file=/tmp/uploads/a.png", False),
        ("/gradio_api/file=https://example.com/a.png", True),
        ("/file=HTTP://example.com/a.png", True),
        ("/gradio_api/file/http:/example.com", True),
        ("/gradio_api/proxy=https://example.com", True),
        ("/gradio_api/vibe-edit", True),
    ],
)
def test_routes_that_fetch_are_refused(path: str, refused: bool) -> None:
    assert bool(REFUSED.match(path)) is refused


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (OSError(28, "No space left on device"), 503, "The disk is full"),
        (MemoryError(), 503, "no memory left"),
        (KeyError("data"), 400, ""),
    ],
)
def test_a_fault_of_the_server_is_not_called_the_visitors(
    fault: Exception, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise fault

    page: Any = SimpleNamespace(_queue=None)  # asked for nothing on this path
    done = TestClient(Guard(broken, page, asyncio.Event())).get("/gradio_api/info")
    assert done.status_code == status
    assert said in capsys.readouterr().err
