"""The commands that train: `train` and `compare`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lfdeploy import early
from lfdeploy.completion import METHOD, RUN
from lfdeploy.config import TrainConfig
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.flags_from_fields import flags, help_all
from lfdeploy.labels import some
from lfdeploy.shared_flags import JSON, RUNS
from lfdeploy.shell import Work
from lfdeploy.stored_config import stored

if TYPE_CHECKING:
    from lfdeploy.run import Run


@click.command(cls=Work, short_help="Train peers that teach each other")
@flags(TrainConfig)
@click.option(
    "--name", default=None, metavar="NAME", help="of the run's directory (default: made from the settings)"
)
@RUNS
@click.option(
    "--resume",
    default=None,
    metavar="RUN",
    shell_complete=RUN,
    help="go on with an interrupted run, under its own settings",
)
@click.option("--config", "file", default=None, metavar="FILE", help="repeat a run from its config.json")
@help_all
@click.pass_context
def train(
    ctx: click.Context, /, name: str | None, runs: str, resume: str | None, file: str | None, **values: Any
) -> None:
    """Train peers together. Alone: two small networks on the embedded digits, in about a minute.

    Ctrl-C saves the state; --resume goes on from it to the same weights.
    """
    given = [p for p in values if ctx.get_parameter_source(p) is click.core.ParameterSource.COMMANDLINE]
    for other, flag in ((resume, "--resume"), (file, "--config")):
        if other and given:
            drop = "-o" if given[0] == "option" else f"--{given[0].replace('_', '-')}"
            raise UsageError(f"{flag} takes the settings of that run; drop {drop}.")
    for other, flag in ((name, "--name"), (file, "--config")):
        if resume and other:
            raise UsageError(f"--resume goes on with a run as it is; drop {flag}.")
    config = TrainConfig(**values)
    if file:
        config = _config_of(file)
    from lfdeploy.runs import resolve
    from lfdeploy.tables import trained
    from training import train as run_training
    from training.allocator import keep_heap

    keep_heap()
    again = resolve(resume, runs) if resume else None
    run = run_training(config, name, runs, again, early.BEGAN, _run_of(file))
    _print(lambda: trained(run), run)


def _config_of(file: str) -> TrainConfig:
    """The settings in a config.json; raises `LfdeployError` for what is none."""
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LfdeployError(f"--config {file} cannot be read: {error}.") from None
    known = [field.name for field in fields(TrainConfig)]
    if not isinstance(values, dict) or not {"data", "method", "option"} <= values.keys():
        beside = Path(file).with_name("config.json")
        which = str(beside) if beside.is_file() and beside != Path(file) else "RUN/config.json"
        raise LfdeployError(f"--config {file} is no config.json of a run. Write: --config {which}")
    strange = [key for key in values if key not in known]
    if strange:
        raise LfdeployError(f"--config {file} has settings that are none here: {some(strange)}. Remove them.")
    try:
        return stored(values)
    except (ValueError, TypeError, KeyError) as error:
        raise LfdeployError(f"--config {file} cannot be used: {error}.") from None


def _print(show: Callable[[], None], run: Run) -> None:
    """Print the end of a run; where that cannot be, the run is whole all the same."""
    from lfdeploy.run import shown

    try:
        show()
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        what = f"Standard output could not be written ({error.strerror or error})"
        raise LfdeployError(f"{what}; run {run.name} is whole, in {shown(run.path)}.") from None


def _run_of(file: str | None) -> Run | None:
    """The run that a config.json lies in; None for a copy elsewhere."""
    from lfdeploy.run import Run

    return Run(Path(file).parent) if file and (Path(file).parent / "spec.json").is_file() else None


#: Settings that a comparison seldom needs.
RARE = (
    "data_root",
    "image_size",
    "val_fraction",
    "test_fraction",
    "strict",
    "freeze",
    "weight_decay",
    "precision",
)


@click.command(cls=Work, short_help="Methods at one recipe: table, plot, intervals")
@click.option(
    "--methods",
    default="lfmkd,independent",
    show_default=True,
    shell_complete=METHOD,
    metavar="A,B[:KEY=VALUE...]",
    help="what is compared, options of each after a colon",
)
@click.option(
    "--seeds",
    default="3",
    show_default=True,
    metavar="N|S,S...",
    help="how many, or which: 5,6,7; one alone: 5,",
)
@click.option(
    "--against",
    default=None,
    metavar="A",
    help="what others are held to (default: independent, or the first)",
)
@click.option("--name", default="compare", show_default=True, metavar="NAME", help="of the runs' directory")
@click.option(
    "--results", default=None, metavar="FILE.jsonl", help="a line for each run (default: in that directory)"
)
@flags(TrainConfig, skip=("method", "option", "seed", "teacher"), hide=RARE)
@RUNS
@JSON
@help_all
def compare(
    methods: str, seeds: str, against: str | None, name: str, results: str | None, runs: str, as_json: bool,
    **values: Any,
) -> None:  # fmt: skip
    """Train methods by one recipe with several seeds, and compare them, paired by seed.

    \b
    lfdeploy compare --methods lfmkd,ffl,independent --seeds 5 --data photos/
    lfdeploy compare --methods ffl:share=stem,independent:peers=1 --seeds 5,6,7

    Each run is kept: the same command goes on where it was stopped, and trains only what is not there.
    """
    from training.allocator import keep_heap
    from training.compare import compare as run_all

    keep_heap()
    document = run_all(TrainConfig(**values), methods, seeds, name, runs, against, results)
    from lfdeploy import tables
    from lfdeploy.console import document as as_document

    as_document(document) if as_json else tables.compared(document)
