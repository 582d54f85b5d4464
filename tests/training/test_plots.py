"""Pictures of a run: class names in any letters, and nothing lost when one cannot be drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import plots

TRUTH = np.array([0, 0, 1, 1, 2, 2])
ANSWER = np.array([0, 1, 1, 1, 2, 0])


@pytest.mark.parametrize(
    "classes", [("A$$AP", "Ke$ha", "$x$"), ("猫", "犬", "鳥"), ("\U00013080", "b" * 300, "=")]
)
def test_any_class_name_is_drawn(
    classes: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "confusion.png"
    plots.attempt(file, lambda path: plots.confusion(TRUTH, ANSWER, classes, path, "run $a$: 猫"))
    assert capsys.readouterr().err == ""
    with Image.open(file) as picture:
        assert picture.width > 500


def test_names_without_a_font_are_numbers() -> None:
    """Letters that no font has, U+FDD0 among them, would be boxes."""
    shown, fonts = plots.legible(["cat", "\ufdd0", "$5", "x" * 40])
    assert shown == ["cat", "1", "$5", "x" * 27 + "…"]
    assert fonts[0] == "DejaVu Sans"


def test_dollars_are_dollars(tmp_path: Path) -> None:
    """As mathematics, $x$ would be drawn as an italic x."""
    for name in ("a", "b"):
        plots.confusion(
            TRUTH, ANSWER, ("cat", "dog", "$x$" if name == "a" else "x"), tmp_path / f"{name}.png", ""
        )
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.png") as second:
        assert first.tobytes() != second.tobytes()
    import matplotlib

    assert matplotlib.rcParams["text.parse_math"] is False


def test_a_picture_that_cannot_be_drawn_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def drawing(path: Path) -> None:
        plots.confusion(TRUTH, ANSWER, ("a", "b", "c"), path / "not" / "there.png", "")

    plots.attempt(tmp_path / "confusion.png", drawing)
    said = capsys.readouterr().err
    assert said.startswith("Note: confusion.png could not be drawn (")
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_home_that_may_not_be_written(tmp_path: Path) -> None:
    """matplotlib keeps its caches there, and tells of it at length where it cannot."""
    code = """
import sys
from pathlib import Path
import numpy as np
from training import plots
y = np.array([0, 1])
plots.attempt(Path(sys.argv[1]), lambda path: plots.confusion(y, y, ("a", "b"), path, "title"))
"""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("XDG", "MPL"))}
    command = [sys.executable, "-c", code, str(tmp_path / "confusion.png")]
    done = subprocess.run(
        command, env=env | {"HOME": "/dev/null"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "confusion.png").exists()
