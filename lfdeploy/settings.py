"""How a setting is written: a field with its default and its help, of which `flags` makes a flag."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import field, fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from lfdeploy.errors import UsageError, choose


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
    """A dataclass field that `lfdeploy.flags_from_fields.flags` turns into a command-line flag.

    ``hidden``: one that --help leaves out, and --help-all shows. ``alone``: what it means without a value.
    """
    words = {"help": help, "choices": tuple(choices), "metavar": metavar, "short": short, "hidden": hidden}
    return field(default=default, metadata=words | {"alone": alone})


def recipes(help: str, *, choices: Sequence[str] = (), metavar: str = "") -> Any:
    """A field that a recipe fills where nobody does; 'lfdeploy list recipes NAME' shows it."""
    return setting(None, help, choices=choices, metavar=metavar, hidden=True)


def check(config: Any) -> None:
    """Raise `UsageError` for a value that is of another type than its field, or none of its choices."""
    hints = _hints(config.__class__)
    for each in fields(config):
        value, hint = getattr(config, each.name), hints[each.name]
        kinds = get_args(hint) if get_origin(hint) is not tuple else (tuple,)
        if value is None and type(None) in kinds:
            continue
        flag = f"--{each.name.replace('_', '-')}"
        accepted = [each for each in kinds or (hint,) if each is not type(None)]
        kind = accepted[0]
        wrong = isinstance(value, bool) is not (kind is bool)
        if wrong or not isinstance(value, (*accepted, int) if kind is float else tuple(accepted)):
            raise UsageError(f"{flag} is {value!r}; it must be {NAMES.get(kind, kind.__name__)}.")
        if each.metadata["choices"]:
            choose(flag, str(value), list(each.metadata["choices"]))


NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@cache
def _hints(config: Hashable) -> dict[str, Any]:
    return get_type_hints(config)
