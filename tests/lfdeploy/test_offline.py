"""What the libraries would report or keep, and here do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lfdeploy.run import Run

OPEN = """import sys, lfdeploy
print(lfdeploy.open_artifact(sys.argv[1], device="cpu").predict(sys.argv[2]).label)"""


def test_an_opened_model_leaves_nothing_in_the_home_directory(tiny_run: Run, tmp_path: Path) -> None:
    """onnxruntime keeps a database of what it has to report there, from the first session on."""
    from PIL import Image

    home = tmp_path / "home"
    home.mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    told = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    command = [sys.executable, "-c", OPEN, tiny_run.artifacts / "peer0-onnx-fp32", tmp_path / "a.png"]
    done = subprocess.run(command, env=told | {"HOME": str(home)}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in tiny_run.spec["classes"]
    assert [str(path) for path in home.rglob("*") if path.is_file()] == []
