"""The arrows of the design: stages never import each other, the library never imports a stage, help stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("training", "export", "serve")
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "openvino", "gradio", "tensorrt", "tensorrt_rtx", "sklearn", "matplotlib")
HEAVY += ("numpy", "PIL")


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ["lfdeploy", *STAGES])
def test_arrows(package: str) -> None:
    forbidden = set(STAGES) - {package}
    for path in (ROOT / package).rglob("*.py"):
        found = imported(path) & forbidden
        if package == "lfdeploy" and path.name in ("cli.py", "listing.py"):
            assert not imported(path, top_level_only=True) & forbidden, path
        else:
            assert not found, f"{path} imports {found}"


def test_command_line_imports_nothing_heavy() -> None:
    code = f"import lfdeploy.cli, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_stay_small() -> None:
    for package in ("lfdeploy", *STAGES):
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 300, path
