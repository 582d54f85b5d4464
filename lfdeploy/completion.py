"""Names at the Tab key: what click asks for while a command is typed. Nothing heavy is imported."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click

Names = Callable[[click.Context, click.Parameter, str], list[str]]


def _table(module: str, name: str) -> list[str]:
    """Keys of a table that is written as a dict, without importing it."""
    package = find_spec(module.split(".")[0])
    if package is None or not package.submodule_search_locations:
        return []
    folder = Path(package.submodule_search_locations[0]).joinpath(*module.split(".")[1:])
    for node in ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(node.value, ast.Dict):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if [each.id for each in targets if isinstance(each, ast.Name)] == [name]:
            return [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
    return []


def _runs(ctx: click.Context) -> list[str]:
    from lfdeploy.runs import newest_first

    return [run.name for run in newest_first(ctx.params.get("runs") or "runs")]


def _artifacts(ctx: click.Context) -> list[str]:
    from lfdeploy.artifact import all_artifacts
    from lfdeploy.run import shown

    return [shown(artifact.path) for artifact in all_artifacts(ctx.params.get("runs") or "runs")]


def _archs(ctx: click.Context) -> list[str]:
    from lfdeploy.models.architectures import ARCHITECTURES

    return list(ARCHITECTURES)


def _names(find: Callable[[click.Context], list[str]]) -> Names:
    """Those that begin as what is typed; after a comma, those that begin as what follows it."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",")
        return [before + comma + name for name in find(ctx) if name.startswith(begun)]

    return complete


RUN = _names(_runs)
ARTIFACT = _names(_artifacts)
EITHER = _names(lambda ctx: _runs(ctx) + _artifacts(ctx))
ARCH = _names(_archs)
METHOD = _names(lambda ctx: _table("training.methods", "METHODS"))
RECIPE = _names(lambda ctx: _table("training.recipes", "RECIPES"))

#: By the name of a setting.
OF_SETTINGS = {"method": METHOD, "arch": ARCH, "recipe": RECIPE, "teacher": EITHER, "weights": RUN}
