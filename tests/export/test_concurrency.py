"""Two exports of one artifact at once, in real processes: the second waits, says for whom, and takes what
is there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from export import concurrency, export
from export.concurrency import claim, release
from lfdeploy.artifact import read
from lfdeploy.config import ExportConfig
from lfdeploy.errors import LfdeployError
from lfdeploy.run import Run

NAME = "peer0-onnx-fp32"
HOLDER = """
import sys
from pathlib import Path
from export.concurrency import claim, release
from lfdeploy.places import publish
(own,) = claim([Path(sys.argv[1])], [sys.argv[2]])
print("held", flush=True)
if sys.stdin.readline() == "publish\\n":
    publish(Path(sys.argv[3]), own.final)
release([own])
"""


@pytest.fixture
def other(tiny_run: Run, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts another export that holds the artifact's place, with a key, until it is told what to do."""
    staged = shutil.copytree(tiny_run.artifacts / NAME, tmp_path / "staged")
    started: list[subprocess.Popen[str]] = []

    def start(key: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "artifacts" / NAME), key, str(staged)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "same", "done"), [("publish", True, True), ("publish", False, False), ("fail", True, False)]
)
def test_the_second_waits(
    order: str,
    same: bool,
    done: bool,
    tiny_run: Run,
    tmp_path: Path,
    other: Callable[[str], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes the other's artifact where that was published and everything it depends on is the same."""
    key = str(read(tiny_run.artifacts / NAME).manifest["made_from"])
    process, said = other(key), []

    def say(message: str) -> None:
        said.append(message)
        if "waiting" in message:
            assert process.stdin is not None
            process.stdin.write(f"{order}\n")
            process.stdin.flush()

    monkeypatch.setattr(concurrency, "say", say)
    (own,) = claim([tmp_path / "artifacts" / NAME], [key if same else "0" * 12])
    assert said[0].startswith(f"{NAME} is being exported by process {process.pid} on ")
    assert own.done is done
    release([own])


def test_what_a_killed_export_left_is_swept(
    tmp_path: Path, other: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Once it is dead: what it was building and an older key's; not what an interrupted one finished, nor
    what is not ours.
    """
    process, artifacts, key = other("a" * 12), tmp_path / "artifacts", "a" * 12
    process.kill()
    process.wait()
    for end in (f"{key}.01234567", "b" * 12, key, "keep"):
        (artifacts / f".{NAME}.{end}").mkdir()
    (own,) = claim([artifacts / NAME], [key])
    assert sorted(path.name for path in artifacts.iterdir()) == [
        f".{NAME}.{key}",
        f".{NAME}.keep",
        f".{NAME}.lock",
    ]
    release([own])
    assert not (artifacts / f".{NAME}.lock").exists()


def test_nothing_is_held_after_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(LfdeployError, match="is not an artifact"):
        claim([tmp_path / "b", tmp_path / "a"], ["k", "k"])
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.wide
def test_two_exports_at_once(tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second begins when the first is at its proof."""
    run = Run(tmp_path / "runs" / "tiny")
    shutil.copytree(tiny_run.path, run.path, ignore=shutil.ignore_patterns("artifacts"))
    command = [str(Path(sys.executable).with_name("lfdeploy")), "export", str(run.path), "--peer", "0"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("Parity in a fresh process"):
            break
    (artifact,) = export(ExportConfig(peer=0), run)
    said = capsys.readouterr().err
    assert f"is being exported by process {first.pid} on " in said
    assert "taken as the other export made it" in said
    assert "Exporting peer0" not in said
    first.communicate()
    assert (first.returncode, artifact.verdict) == (0, "pass")
    assert [path.name for path in run.artifacts.iterdir()] == [NAME]
