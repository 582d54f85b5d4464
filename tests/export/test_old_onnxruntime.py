"""Published ONNX files open in an onnxruntime of early 2024, and answer as today."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from lfdeploy import open_artifact
from lfdeploy.devices import int8_saturates
from lfdeploy.run import Run

LOCK = Path(__file__).with_name("old-onnxruntime.lock")  # onnxruntime 1.17.0, which needs a numpy below 2
UV = shutil.which("uv") or Path(__file__).parents[2] / ".uv" / "bin" / "uv"
OPEN = """
import sys
import numpy as np, onnxruntime
assert onnxruntime.__version__ == "1.17.0"
file, pictures, answers, exact = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", exact)
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
np.save(answers, session.run(["logits"], {"images": np.load(pictures)})[0])
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment from the lock, made by uv where there is one, else by pip."""
    place = tmp_path_factory.mktemp("old") / "env"
    python = place / "bin" / "python"
    if Path(UV).exists():
        subprocess.run([UV, "venv", "-q", "--python", sys.executable, place], check=True)
        subprocess.run([UV, "pip", "sync", "-q", "--python", python, "--require-hashes", LOCK], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--require-hashes", "-r", LOCK], check=True)
    return python


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="onnxruntime 1.17 was made for Python 3.12 at most")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_it_answers_as_today(
    precision: str,
    tiny_run: Run,
    old_python: Path,
    tmp_path: Path,
    half_artifact: Path,
    int8_artifact: Path,
) -> None:
    fp32 = tiny_run.artifacts / "fused-onnx-fp32"
    place = {"fp32": fp32, "fp16": half_artifact, "int8": int8_artifact}[precision]
    pictures = np.ascontiguousarray(tiny_run.data().test.images[:64])
    np.save(tmp_path / "pictures.npy", pictures)
    files = [place / "model.onnx", tmp_path / "pictures.npy", tmp_path / "answers.npy"]
    subprocess.run([old_python, "-c", OPEN, *files, str(int(int8_saturates()))], check=True)
    today = open_artifact(place, device="cpu").run(pictures)[0]
    apart = np.abs(np.load(tmp_path / "answers.npy") - today).max() / np.abs(today).max()
    assert apart <= 1e-5


def test_files_are_of_the_oldest_version(tiny_run: Run, half_artifact: Path, int8_artifact: Path) -> None:
    for place in (tiny_run.artifacts / "fused-onnx-fp32", half_artifact, int8_artifact):
        model = onnx.load(place / "model.onnx")
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)], place.name
        assert model.ir_version == 8, place.name


def test_the_lock_names_versions_and_hashes_and_no_address() -> None:
    text = LOCK.read_text()
    assert "://" not in text
    packages = [block for block in text.replace("\\\n", " ").splitlines() if block.strip()]
    assert any(package.startswith("onnxruntime==1.17.0 ") for package in packages)
    assert all("==" in package and "--hash=sha256:" in package for package in packages)
