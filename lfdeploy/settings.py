"""How a setting is written: a field with its default and its help, of which `flags` makes a flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    metavar: str = "",
    short: str = "",
    hidden: bool = False,
    alone: str = "",
) -> Any:
    """A dataclass field that `lfdeploy.options.flags` turns into a command-line flag.

    ``hidden``: one that --help leaves out, and --help-all shows. ``alone``: what it means without a value.
    """
    words = {"help": help, "choices": tuple(choices), "metavar": metavar, "short": short, "hidden": hidden}
    return field(default=default, metadata=words | {"alone": alone})


def recipes(help: str, *, choices: Sequence[str] = (), metavar: str = "") -> Any:
    """A field that a recipe fills where nobody does; 'lfdeploy list recipes NAME' shows it."""
    return setting(None, help, choices=choices, metavar=metavar, hidden=True)
