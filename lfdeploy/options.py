"""From dataclass to flags: one click option per field, with the help that sits on the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_type_hints

import click

F = TypeVar("F", bound=Callable[..., Any])


def flags(config: type[Any], skip: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Decorate a click command with one option per field of a config class."""

    def decorate(command: F) -> F:
        hints = get_type_hints(config)
        for field in reversed(fields(config)):
            if field.name not in skip:
                command = _option(field.name, field.default, hints[field.name], field.metadata)(command)
        return command

    return decorate


def _option(name: str, default: Any, hint: Any, meta: Any) -> Callable[[F], F]:
    flag, help_text = f"--{name.replace('_', '-')}", str(meta["help"])
    if name == "option":
        return click.option(meta["short"], name, nargs=2, multiple=True, metavar="KEY VALUE", help=help_text)
    if hint is bool:
        return click.option(flag, name, is_flag=True, default=default, help=help_text)
    kind: Any = next((t for t in get_args(hint) if t is not type(None)), hint)
    if meta["choices"]:
        kind = click.Choice(meta["choices"])
    shown = default is not None and not meta["choices"] and default != ""
    if meta["choices"]:
        help_text = f"{help_text} [{'|'.join(meta['choices'])}]"
    return click.option(
        flag,
        name,
        type=kind,
        default=default,
        show_default=shown,
        help=help_text,
        metavar=meta["metavar"] or "NAME",
        hidden=meta["hidden"],
    )
