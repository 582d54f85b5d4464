"""From dataclass to flags: one click option per field, with the help that sits on the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_type_hints

import click

from lfdeploy.completion import OF_SETTINGS

F = TypeVar("F", bound=Callable[..., Any])


def flags(config: type[Any], skip: tuple[str, ...] = (), hide: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Decorate a click command with one option per field of a config class, but for those to ``skip``; help
    leaves out those to ``hide``.
    """

    def decorate(command: F) -> F:
        hints = get_type_hints(config)
        for field in reversed(fields(config)):
            if field.name not in skip:
                words = dict(field.metadata) | ({"hidden": True} if field.name in hide else {})
                command = _option(field.name, field.default, hints[field.name], words)(command)
        return command

    return decorate


def _option(name: str, default: Any, hint: Any, meta: Any) -> Callable[[F], F]:
    flag, help_text = f"--{name.replace('_', '-')}", str(meta["help"])
    if name == "option":
        return click.option(meta["short"], name, nargs=2, multiple=True, metavar="KEY VALUE", help=help_text)
    if hint is bool:
        return click.option(flag, name, is_flag=True, default=default, help=help_text, hidden=meta["hidden"])
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
        shell_complete=OF_SETTINGS.get(name),
        **({"is_flag": False, "flag_value": meta["alone"]} if meta.get("alone") else {}),
    )


def help_all(command: F) -> F:
    """Give a command ``--help-all``: help that leaves nothing out."""

    def show(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
        if asked and not ctx.resilient_parsing:
            hidden = [each for each in ctx.command.params if isinstance(each, click.Option) and each.hidden]
            for option in hidden:
                option.hidden = False
            click.echo(ctx.get_help(), color=ctx.color)
            for option in hidden:
                option.hidden = True
            ctx.exit()

    return click.option(
        "--help-all",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show every option.",
    )(command)
