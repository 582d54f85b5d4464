"""`.ci/gpu` ends with a table of every step, whatever is missing; two calls are not in each other's way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "gpu"
STEPS = 11


def called(python: Path, out: Path) -> tuple[int, list[str]]:
    """The script's exit code, and the lines of its table."""
    command, env = ["bash", str(SCRIPT), str(out)], os.environ | {"PYTHON": str(python)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    start = max(number for number, line in enumerate(lines) if line.split() == ["step", "result", "s"])
    assert lines[-1] == f"Results are in {out}"
    return done.returncode, lines[start + 1 : -1]


def python_that(body: str, place: Path) -> Path:
    """A stand-in for Python that notes its arguments and does nothing else."""
    place.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{place}.calls"\n{body}\n')
    place.chmod(0o755)
    return place


@pytest.mark.parametrize("code", [0, 1])
def test_every_step_has_its_row(tmp_path: Path, code: int) -> None:
    body, result = ("exit 3", "FAILED (exit 3)") if code else ("exit 0", " ok ")
    out, python = tmp_path / "out", python_that(body, tmp_path / "python")
    out.mkdir()
    (out / "bench.md").write_text("what a real bench would have left")
    for _ in range(2):
        exit_code, rows = called(python, out)
        assert exit_code == code
        assert len(rows) == STEPS
        assert all(result in row or "skipped" in row for row in rows), rows
        assert any(row.startswith("latency and throughput") for row in rows)
    calls = Path(f"{python}.calls").read_text().splitlines()
    trained = [call for call in calls if "--name gpu" in call]
    folders = {call.split("--runs ")[1].split()[0] for call in trained}
    assert len(trained) == len(folders) == 2  # a folder of its own for each


def test_without_python_there_is_a_table_too(tmp_path: Path) -> None:
    exit_code, rows = called(tmp_path / "absent", tmp_path / "out")
    assert (exit_code, len(rows)) == (1, STEPS)
