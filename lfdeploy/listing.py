"""`lfdeploy list`: the tables, a row of one of them whole, and what lies in the runs directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from lfdeploy.console import document, say, table
from lfdeploy.errors import LfdeployError, UsageError, choose
from lfdeploy.locks import owner_of
from lfdeploy.names import printable

if TYPE_CHECKING:
    from lfdeploy.run import Run

GROUPS = {
    "online": "Networks that teach each other",
    "self": "One network that teaches itself",
    "teacher": "Taught by networks that were trained before (--teacher)",
    "baseline": "Without teaching",
}


def show(what: str | None, name: str | None, runs: str, as_json: bool) -> None:
    """One of the tables, or what lies in the runs directory; None shows them all.

    ``name``: one method or run, whole.
    """
    if name is not None:
        if what not in _WHOLE:
            raise UsageError(
                f"'{name}' has no meaning here: only one method or one run is shown whole. Write: lfdeploy "
                f"list {what}"
            )
        _WHOLE[what](name, runs, as_json)
        return
    if as_json:
        tables = {table: list(rows(runs)) for table, rows in _ROWS.items() if what in (None, table)}
        document(tables[what] if what else tables)
        return
    for each in [what] if what else _ROWS:
        _show(each, list(_ROWS[each](runs)), runs, "" if what else each.capitalize())


def _show(what: str, rows: list[dict[str, Any]], runs: str, title: str) -> None:
    if not rows:
        say(
            f"There are no {what} in {runs}/ yet. Make one with: lfdeploy "
            f"{'train' if what == 'runs' else 'export'}"
        )
        return
    if what == "methods":
        _grouped(rows, title)
        return
    columns = list(rows[0])
    cells = [[_text(row[c]) for c in columns] for row in rows]
    table(title, columns, cells, left=len(columns), whole=what in ("runs", "artifacts"))


def _grouped(rows: list[dict[str, Any]], title: str) -> None:
    """The methods, a line each."""
    if title:
        click.secho(title, bold=True)
    width = max(len(row["method"]) for row in rows) + 3
    for group, heading in GROUPS.items():
        click.secho(heading, bold=True)
        for row in rows:
            if row["group"] == group:
                click.echo(f"  {row['method']:<{width}}{row['what it is']}")
    click.echo("Loss, options and source of one: lfdeploy list methods NAME")


def _method(name: str, runs: str, as_json: bool) -> None:
    """One method, whole."""
    from training.methods import METHODS

    choose("method", name, list(METHODS))
    row = next(row for row in _methods(runs) if row["method"] == name)
    if as_json:
        document(row)
        return
    click.echo(f"{name}: {row['what it is']}")
    for key in ("loss", "ships", "when", "source", "networks by default"):
        click.echo(f"  {key + ':':<21}{row[key]}")
    cells = [[o["name"], _text(o["default"]), "|".join(o["choices"]), o["help"]] for o in row["options"]]
    if cells:
        table("Options (-o KEY VALUE)", ["key", "default", "choices", "what it is"], cells, left=4)


def _targets(name: str, runs: str, as_json: bool) -> None:
    """What of one run can be exported, how good each is, and what was exported."""
    from lfdeploy.artifact import of_run
    from lfdeploy.config import flags_of
    from lfdeploy.models.targets import layout_of, top1_of
    from lfdeploy.runs import resolve

    run = resolve(name, runs).finished()
    layout, top1 = layout_of(run.spec), top1_of(run.read("summary.json")["test"])
    artifacts = of_run(run)
    rows = [
        {
            "target": target,
            "kind": row.kind,
            "networks": " + ".join(layout.archs(target)),
            "top-1 %": top1.get(target),
            "shipped": "yes" if target in layout.ships else "-",
            "exports": ", ".join(a.name for a in artifacts if a.manifest["target"] == target) or "-",
            "export with": f"lfdeploy export {run.name} {flags_of(target)}",
        }
        for target, row in layout.targets.items()
    ]
    if as_json:
        document({"run": run.name, "method": run.spec["method"], "targets": rows})
        return
    columns = [column for column in rows[0] if column != "export with"]
    table(
        f"Targets of {run.name} ({run.spec['method']})",
        columns,
        [[_text(row[c]) for c in columns] for row in rows],
        left=len(columns),
    )
    click.echo(f"Next: {next(row['export with'] for row in rows if row['target'] == layout.ships[0])}")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}" if value < 1 or value == int(value) else f"{value:.2f}"
    return "-" if value is None else str(value)


def _methods(runs: str) -> Iterator[dict[str, Any]]:
    from training.methods import METHODS

    for name, method in METHODS.items():
        options = [
            {
                "name": f.name,
                "default": f.default,
                "choices": list(f.metadata["choices"]),
                "help": f.metadata["help"],
            }
            for f in fields(method.options)
        ]
        yield {
            "method": name,
            "group": method.group,
            "what it is": method.about,
            "loss": method.loss,
            "ships": method.ships,
            "when": method.when,
            "source": method.source,
            "networks by default": method.peers,
            "options": options,
        }


def _archs(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.models import ALIASES, ARCHITECTURES

    shorter = {name: f", also called {alias}" for alias, name in ALIASES.items()}
    for name, row in ARCHITECTURES.items():
        yield {"architecture": name, "what it is": row.about + shorter.get(name, "")}
    yield {
        "architecture": "timm:NAME",
        "what it is": "a network of timm, where that is installed: a sequence of layers with square maps",
    }


def _recipes(runs: str) -> Iterator[dict[str, Any]]:
    from training.recipes import RECIPES

    for name, row in RECIPES.items():
        yield {"recipe": name, "what it is": row.about, "taken for": row.when}


def _recipe(name: str, runs: str, as_json: bool) -> None:
    """One recipe, whole."""
    from lfdeploy.config import TrainConfig
    from training.recipes import RECIPES

    choose("recipe", name, list(RECIPES))
    row = asdict(RECIPES[name])
    if as_json:
        document({"recipe": name} | row)
        return
    click.echo(f"{name}: {row['about']}")
    for key in ("when", "source"):
        click.echo(f"  {key + ':':<8}{row[key]}")
    helps = {f.name: f.metadata["help"] for f in fields(TrainConfig)}
    helps["train_size"] = "side of the training pictures; here as a share of the model's"
    helps["freeze_parts"] = (
        "with --weights: stages that never learn, and the stem; here a share of the stages"
    )
    cells = []
    for key in [key for key in row if key not in ("about", "when", "source")]:
        flag, value = "freeze_parts" if key == "frozen" else key, row[key]
        text = str(value).lower() if isinstance(value, bool) else _text(value)
        shown = "by the data" if value is None else text
        cells.append([f"--{flag.replace('_', '-')}", shown, helps[flag]])
    table("Settings, each of which may be given", ["", "", ""], cells, left=3)


def _datasets(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.sources import DATASETS

    for name, row in DATASETS.items():
        yield {"data": name, "what it is": row.about}
    yield {"data": "DIR", "what it is": "class folders of pictures, or train/ val/ test/ of class folders"}
    yield {
        "data": "FILE.csv",
        "what it is": "a table with the columns path,label[,split]; paths are relative to the file",
    }
    yield {"data": "FILE.npz", "what it is": "train_x uint8 (N,H,W,3), train_y, test_x, test_y, classes"}


def _backends(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.backends import BACKENDS

    for name, row in BACKENDS.items():
        yield {
            "backend": name,
            "format": row.format,
            "what it is": row.about,
            "precisions": ", ".join(row.precisions) if row.build else "-",
            "builds here": row.missing() or "yes",
            "runs here": row.cannot_run() or row.missing() or "yes",
        }


def _runs(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.runs import newest_first

    for run in newest_first(runs):
        try:
            yield _run(run)
        except (LfdeployError, OSError, KeyError, TypeError, ValueError) as error:
            say(f"Note: run {run.name} is damaged: {printable(str(error))}")
            yield {
                "run": run.name,
                "method": None,
                "networks": None,
                "best peer %": None,
                "fused %": None,
                "state": "damaged",
            }


def _run(run: Run) -> dict[str, Any]:
    config, done = run.read("config.json"), (run.path / "summary.json").exists()
    test = run.read("summary.json")["test"] if done else {"peers": [], "fused": None, "ensemble": None}
    state = "finished" if done else "diverged" if run.diverged() else "not finished"
    state = "training now" if not done and owner_of(run.lock) else state
    return {
        "run": run.name,
        "method": config["method"],
        "networks": " + ".join(run.spec["archs"]),
        "best peer %": max(test["peers"], default=None),
        "fused %": test["fused"],
        "state": state,
    }


def _artifacts(runs: str) -> Iterator[dict[str, Any]]:
    from lfdeploy.artifact import all_artifacts
    from lfdeploy.run import shown

    for a in all_artifacts(runs):
        accuracy = a.manifest.get("accuracy")
        yield {
            "artifact": a.name,
            "run": a.manifest["run"]["name"],
            "MB": round(a.manifest["bytes"] / 1e6, 2),
            "top-1 %": accuracy["top1"] if accuracy else None,
            "parity": a.verdict,
            "path": shown(a.path),
        }


_ROWS = {
    "methods": _methods,
    "archs": _archs,
    "recipes": _recipes,
    "datasets": _datasets,
    "backends": _backends,
    "runs": _runs,
    "artifacts": _artifacts,
}
_WHOLE = {"methods": _method, "recipes": _recipe, "runs": _targets}
