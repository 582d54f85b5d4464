from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lfdeploy.artifact import Artifact
from lfdeploy.config import ExportConfig
from lfdeploy.run import Run

Export = Callable[[ExportConfig, Run], list[Artifact]]


@pytest.fixture(scope="session")
def half_artifact(tiny_run: Run, proven_here: Export) -> Path:
    """The fused classifier of the tiny run as fp16 ONNX."""
    return proven_here(ExportConfig(fused=True, precision="fp16"), tiny_run)[0].path


@pytest.fixture(scope="session")
def int8_artifact(tiny_run: Run, proven_here: Export) -> Path:
    """The first peer of the tiny run as int8 ONNX."""
    return proven_here(ExportConfig(peer=0, precision="int8"), tiny_run)[0].path


@pytest.fixture
def copied(tiny_run: Run, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one artifact that a test may break, far from its run."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_run.artifacts / name, tmp_path / "copies" / name))

    return copy


@pytest.fixture(scope="session")
def elsewhere(tiny_run: Run, proven_here: Export) -> list[Path]:
    """The first peer of the tiny run in the formats that are neither ONNX nor an engine."""
    wanted = ("openvino", "fp32,fp16,int8"), ("torch", "fp32")
    made = [proven_here(ExportConfig(peer=0, format=f, precision=p), tiny_run) for f, p in wanted]
    return [artifact.path for artifacts in made for artifact in artifacts]
