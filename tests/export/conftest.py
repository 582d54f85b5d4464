from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lfdeploy.config import ExportConfig
from lfdeploy.run import Run


@pytest.fixture(scope="session")
def half_artifact(tiny_run: Run) -> Path:
    """The fused classifier of the tiny run as fp16 ONNX."""
    from export import export

    return export(ExportConfig(fused=True, precision="fp16"), tiny_run)[0].path


@pytest.fixture(scope="session")
def int8_artifact(tiny_run: Run) -> Path:
    """The first peer of the tiny run as int8 ONNX, however fast."""
    from export import export

    return export(ExportConfig(peer=0, precision="int8", force=True), tiny_run)[0].path


@pytest.fixture
def copied(tiny_run: Run, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one artifact that a test may break, far from its run."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_run.artifacts / name, tmp_path / "copies" / name))

    return copy


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The fault suite's table: every planted fault, the stage that must name it, and what the gate said."""
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.stats.get(outcome, []) if r.when == "call"]
    rows = [tuple(value) for report in reports for key, value in report.user_properties if key == "fault"]
    if not rows:
        return
    terminalreporter.section("planted faults")
    for name, wanted, found in rows:
        terminalreporter.line(f"{name:<44} {wanted:<9} {'caught' if wanted == found else f'MISSED: {found}'}")
    caught = sum(wanted == found for _, wanted, found in rows)
    terminalreporter.line(f"{caught} of {len(rows)} planted faults caught at the right stage")
