"""docs/methods.md is what its script writes, and names every row."""

from __future__ import annotations

from pathlib import Path

from methods_page import page

from training.methods import METHODS

FILE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_page_is_that_of_the_table() -> None:
    assert FILE.read_text() == page(), (
        "write it again: python tests/training/methods_page.py > docs/methods.md"
    )
    assert all(f"### {name}\n" in page() for name in METHODS)
