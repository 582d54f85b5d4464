"""Which names a run and a class may have, and how any text is shown on one line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from lfdeploy.errors import LfdeployError, UsageError

LONGEST = 200  # bytes of a run's name: file systems take 255, and temporary names are longer
UNREADABLE = (
    "Cc",
    "Cs",
    "Zl",
    "Zp",
)  # control characters, bytes that are no UTF-8, ends of lines and paragraphs


def readable(text: str) -> bool:
    """Whether a text is one line and has an encoding."""
    return all(unicodedata.category(char) not in UNREADABLE for char in text)


def printable(text: str) -> str:
    """The text on one line: what is not readable as backslash escapes."""
    if readable(text):
        return text
    return "".join(char if readable(char) else char.encode("unicode_escape").decode() for char in text)


def check_name(name: str | None) -> None:
    """Raise `UsageError` for what cannot be a run's name."""
    if name is None:
        return
    plain = Path(name).name == name and not name.startswith((".", "-")) and name not in ("", "latest")
    if not plain or not readable(name):
        text = printable(name)
        raise UsageError(f"--name is '{text}'; it must be the plain name of a directory in --runs.")
    size = len(name.encode())
    if size > LONGEST:
        raise UsageError(f"--name is {size} bytes long; at most {LONGEST} can be a directory's name.")


def check_classes(classes: Iterable[str], data: str) -> None:
    """Raise `LfdeployError` for a class name that is no line of text: there are
    files with one class a line.
    """
    for name in classes:
        if not name.strip() or not readable(name):
            text = printable(name)
            raise LfdeployError(
                f"{printable(data)}: the class name '{text}' is not a line of readable text. Rename it."
            )


def stem_of(text: str) -> str:
    """What a run that was given no name may be called after: the text without what `check_name` refuses."""
    plain = "".join(char if readable(char) and char not in "/:" else "_" for char in text).lstrip(".-")
    return plain.encode()[: LONGEST - 20].decode(errors="ignore") or "run"
