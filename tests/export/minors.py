"""The same weights under several Pythons: are the ONNX files the same, byte for byte? `make minors
OTHER=python3.12`.

Each Python gets an environment of its own from requirements.lock, in a folder that is removed again. Not a
test: it installs. Usage: minors.py UV PYTHON...
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lfdeploy.run import sha256

ROOT = Path(__file__).parents[2]
PRECISIONS = "fp32,fp16,bf16,int8"


def environment(uv: str, python: str, place: Path) -> Path:
    """A fresh environment with this tree in it; the folder of its programs."""
    subprocess.run([uv, "venv", "-q", "--python", python, str(place)], check=True)
    into = ["--python", str(place)]
    subprocess.run(
        [uv, "pip", "sync", "-q", *into, "--require-hashes", str(ROOT / "requirements.lock")], check=True
    )
    subprocess.run([uv, "pip", "install", "-q", *into, "--no-deps", "-e", str(ROOT)], check=True)
    return place / "bin"


def files_of(programs: Path, run: Path, runs: Path) -> dict[str, str]:
    """sha256 of every target's ONNX file in every precision, exported from a copy of the run."""
    shutil.copytree(run, runs / "run")
    words = ["export", "run", "--runs", str(runs), "--all", "--precision", PRECISIONS]
    subprocess.run([str(programs / "lfdeploy"), *words], check=True, stdout=subprocess.DEVNULL, cwd=runs)
    return {path.parent.name: sha256(path) for path in sorted(runs.glob("run/artifacts/*/model.onnx"))}


def main() -> None:
    uv, *pythons = sys.argv[1:]
    uv = str(Path(uv).absolute()) if "/" in uv else uv
    here = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run(
            [
                str(here / "lfdeploy"),
                "train",
                "--epochs",
                "2",
                "--runs",
                str(place / "runs"),
                "--name",
                "run",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found: dict[str, dict[str, str]] = {}
        for number, python in enumerate([sys.executable, *pythons]):
            programs = here if number == 0 else environment(uv, python, place / f"env{number}")
            version = subprocess.run(
                [str(programs / "python"), "-V"], check=True, capture_output=True, text=True
            ).stdout.strip()
            found[version] = files_of(programs, place / "runs" / "run", place / f"runs{number}")
    first, *others = found.values()
    for name, digest in first.items():
        print(
            f"{name:<22} {digest[:16]}  "
            f"{'same' if all(other.get(name) == digest for other in others) else 'DIFFERS'}"
        )
    same = sum(all(other.get(name) == digest for other in others) for name, digest in first.items())
    print(f"{same} of {len(first)} files are the same under {', '.join(found)}")
    sys.exit(0 if others and first and same == len(first) else 1)


if __name__ == "__main__":
    main()
