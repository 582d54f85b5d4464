"""How a method's option is written: a default, a help text, and the values it may take; and options that many
methods have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lfdeploy.errors import UsageError

SHARES = ("none", "stem", "stage1", "stage2")


def option(default: Any, help: str, *choices: str) -> Any:
    """A field of a method's options, settable with ``-o KEY VALUE``."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Distilled:
    """Options of every method that compares logits. A method gives its own defaults."""

    temperature: float = option(3.0, "of every distillation term")
    logits: str = option(
        "plain", "standard: each picture's logits with mean 0 and deviation 1", "plain", "standard"
    )

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"-o temperature is {self.temperature}; it must be greater than 0.")


def within(name: str, value: float, least: float, most: float = float("inf")) -> None:
    """Raise `UsageError` for an option that is not from ``least`` to ``most``."""
    if not least <= value <= most or value == float("inf"):
        room = f"at least {least:g}" if most == float("inf") else f"from {least:g} to {most:g}"
        raise UsageError(f"-o {name} is {value:g}; it must be {room}.")


def parts_shared(share: str) -> int:
    """How many leading parts, the stem and then stages, an option ``share`` names."""
    return SHARES.index(share)
