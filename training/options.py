"""How a method's option is written: a default, a help text, and the values it may take."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str, *choices: str) -> Any:
    """A field of a method's options, settable with ``-o KEY VALUE``."""
    return field(default=default, metadata={"help": help, "choices": choices})
