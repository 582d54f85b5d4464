"""Options of the command line: those that several commands have, and those of commands that have many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import click

from lfdeploy.errors import UsageError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, in the order in which help shows them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


RUNS = click.option("--runs", default="runs", show_default=True, metavar="DIR", help="where runs live")
JSON = click.option("--json", "as_json", is_flag=True, help="one JSON document on standard output")
DEVICE = click.option(
    "--device",
    default="auto",
    metavar="NAME",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="where to run [auto|cpu|cuda]",
)
DATA = click.option(
    "--data",
    default=None,
    metavar="NAME|DIR|FILE",
    help="other pictures than the run's: all are judged, of a set with splits its test split",
)
BACKEND = click.option(
    "--backend", default="auto", metavar="NAME", help="what opens it [auto, or see: lfdeploy list backends]"
)
TABLES = ["methods", "archs", "recipes", "datasets", "backends", "runs", "artifacts"]


class Tables(click.Choice[str]):
    """The tables of `lfdeploy list`, also by words that people have for them."""

    ALSO: ClassVar = {"data": "datasets", "architectures": "archs", "models": "archs", "formats": "backends"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The table's own name."""
        known = self.ALSO.get(value, value)
        return super().convert(f"{known}s" if f"{known}s" in TABLES else known, param, ctx)


class Needed(click.Argument):
    """An argument without which a command has nothing to do: a sentence says what to type."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """The value, or `UsageError`."""
        try:
            return super().process_value(ctx, value)
        except click.MissingParameter:
            what = " ".join(each.make_metavar(ctx) for each in ctx.command.params if isinstance(each, Needed))
            raise UsageError(
                f"Nothing says what to {ctx.info_name}. Artifacts are shown by: lfdeploy list artifacts. "
                f"Write: lfdeploy {ctx.info_name} {what}"
            ) from None


FROM_RUN = click.option(
    "--run", default=None, metavar="DIR", help="the run it came from, if it is not where it was"
)

#: how `lfdeploy predict` answers
ANSWERED = together(
    click.option(
        "--top",
        type=click.IntRange(min=1),
        default=5,
        show_default=True,
        metavar="K",
        help="classes per picture",
    ),
    click.option(
        "--csv", "csv_file", default=None, metavar="FILE", help="write a table: UTF-8, labels as they are"
    ),
    click.option(
        "--explain",
        default=None,
        metavar="DIR",
        help="write a heat map per picture (of an artifact exported with --explain)",
    ),
    click.option(
        "--backend",
        default="auto",
        metavar="NAME",
        help="auto, another of lfdeploy list backends, or pytorch: the run's own module in its place",
    ),
)
#: what `lfdeploy bench` measures
MEASURED = together(
    click.option("--batch", default="1,8,32", show_default=True, metavar="B,...", help="batch sizes"),
    click.option(
        "--rounds",
        type=click.IntRange(min=3),
        default=None,
        metavar="N",
        help="interleaved rounds (default: 30; train: 15)",
    ),
    click.option(
        "--seconds",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        help="about so long: calls per round follow",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=None,
        metavar="N",
        help="of every row (default: as many as PyTorch takes)",
    ),
    click.option(
        "--against",
        default="",
        metavar="NAME",
        help="the row that speed is relative to (default: its PyTorch module)",
    ),
    click.option(
        "--compile",
        "compiled",
        is_flag=True,
        help="also torch.compile, half a minute to warm up, and on a GPU a CUDA graph",
    ),
    click.option("--markdown", default="", metavar="FILE|-", help="a table for a README"),
    click.option("--plot", default="", metavar="FILE.png", help="latency by batch size"),
    click.option(
        "--arch",
        default="resnet32",
        show_default=True,
        metavar="A",
        help="(train) architecture of all peers",
    ),
    click.option(
        "--method",
        default="lfmkd",
        show_default=True,
        metavar="A,B,...",
        help="(train) one against a plain loop, several against the first",
    ),
)
#: where `lfdeploy serve` listens
SERVED = together(
    click.option(
        "--host", default="127.0.0.1", show_default=True, metavar="HOST", help="address to listen on"
    ),
    click.option(
        "--port",
        default=7860,
        show_default=True,
        metavar="PORT",
        type=click.IntRange(0, 65535),
        help="0 takes a free one",
    ),
    click.option(
        "--root-path",
        default="",
        metavar="PATH",
        help="where a reverse proxy shows the page: /demo, or a whole address",
    ),
    click.option(
        "--title",
        default="",
        metavar="TEXT",
        help="what stands on the page (default: the name of the data)",
    ),
    click.option(
        "--token-file",
        default="",
        metavar="FILE",
        help="its one word is asked of everybody, but for /health/live",
    ),
    click.option(
        "--workers",
        default=1,
        show_default=True,
        metavar="N",
        type=click.IntRange(1, 64),
        help="processes that answer programs at one address",
    ),
    click.option("--log", is_flag=True, help="a line of JSON for each request, on standard output"),
)
