from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export import export
from lfdeploy.config import ExportConfig
from lfdeploy.run import Run


@pytest.fixture(scope="session")
def half_artifact(tiny_run: Run) -> Path:
    """The fused classifier of the tiny run as fp16 ONNX."""
    return export(ExportConfig(fused=True, precision="fp16"), tiny_run)[0].path


@pytest.fixture(scope="session")
def int8_artifact(tiny_run: Run) -> Path:
    """The first peer of the tiny run as int8 ONNX."""
    return export(ExportConfig(peer=0, precision="int8"), tiny_run)[0].path


@pytest.fixture
def copied(tiny_run: Run, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one artifact that a test may break, far from its run."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_run.artifacts / name, tmp_path / "copies" / name))

    return copy


@pytest.fixture(scope="session")
def elsewhere(tiny_run: Run) -> list[Path]:
    """The first peer of the tiny run in the formats that are neither ONNX nor an engine."""
    wanted = ("openvino", "fp32,fp16,int8"), ("torch", "fp32")
    made = [export(ExportConfig(peer=0, format=f, precision=p), tiny_run) for f, p in wanted]
    return [artifact.path for artifacts in made for artifact in artifacts]
