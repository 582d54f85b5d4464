"""The arrows of the design: stages never import each other, the library never imports a stage, help
stays light.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("training", "export", "serve")
#: modules of lfdeploy whose functions import stages
COMMANDS = ("training_commands.py", "serving_commands.py", "cli.py", "listing.py", "api.py", "shipping.py")
HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "openvino",
    "gradio",
    "tensorrt",
    "tensorrt_rtx",
    "sklearn",
    "matplotlib",
)
HEAVY += ("numpy", "PIL")


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ["lfdeploy", *STAGES])
def test_arrows(package: str) -> None:
    forbidden = set(STAGES) - {package}
    for path in (ROOT / package).rglob("*.py"):
        found = imported(path) & forbidden
        if package == "lfdeploy" and path.name in COMMANDS:
            assert not imported(path, top_level_only=True) & forbidden, path
        else:
            assert not found, f"{path} imports {found}"


@pytest.mark.parametrize("package", ["lfdeploy", *STAGES])
def test_every_package_that_is_imported_is_declared(package: str) -> None:
    """Not only there because something else needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    assert not _undeclared(package, lines)


def test_the_server_has_what_it_imports() -> None:
    assert not _undeclared("serve", (ROOT / "serve" / "requirements.txt").read_text().splitlines())


def _undeclared(package: str, lines: list[str]) -> set[str]:
    """Packages that the modules import and no line of requirements names."""
    told = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}
    owners = importlib.metadata.packages_distributions()
    known = {"lfdeploy", *STAGES, *sys.stdlib_module_names, "triton_python_backend_utils"}  # Triton's own
    names = {name for path in (ROOT / package).rglob("*.py") for name in imported(path)} - known
    return {
        name
        for name in names
        if told.isdisjoint(owner.lower().replace("_", "-") for owner in owners.get(name, [name]))
    }


#: what a room of export/ may import of export/, besides itself
ROOMS = {
    "numbers": (),
    "build": ("numbers",),
    "independent": ("numbers",),
    "parity": ("numbers", "build", "independent"),
    "report": ("numbers", "parity"),
    "bench": (),
    "bisect": ("build", "parity"),
}


def modules_of(package: str, when_loaded: bool = False) -> dict[str, set[str]]:
    """Every module of a package by its dotted name, with those of the package that it imports: all, or those
    that loading it needs.
    """
    parts = {path.relative_to(ROOT).with_suffix("").parts: path for path in (ROOT / package).rglob("*.py")}
    names = {".".join(part for part in steps if part != "__init__"): path for steps, path in parts.items()}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        own = found[name] = set()
        tree = ast.parse(path.read_text())
        for node in tree.body if when_loaded else ast.walk(tree):
            if isinstance(node, ast.Import):
                own |= {alias.name for alias in node.names if alias.name in names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                own |= {
                    target for alias in node.names if (target := f"{node.module}.{alias.name}") in names
                } or {node.module} & set(names)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_export_import_downwards(room: str) -> None:
    modules = modules_of("export")
    allowed = tuple(f"export.{name}." for name in (room, *ROOMS[room]))
    for name, others in modules.items():
        if name.startswith(f"export.{room}."):
            assert [other for other in others if not other.startswith(allowed)] == [], name


def test_every_room_is_known() -> None:
    assert {path.parent.name for path in (ROOT / "export").glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("package", ["lfdeploy", *STAGES])
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    # there some functions import what would be a circle
    modules = modules_of(package, when_loaded=package == "lfdeploy")
    while free := [name for name, others in modules.items() if not others & set(modules) - {name}]:
        modules = {name: others for name, others in modules.items() if name not in free}
    assert set(modules) == set()


def test_command_line_imports_nothing_heavy() -> None:
    code = f"import lfdeploy.cli, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


MODULES = [path for package in ("lfdeploy", *STAGES) for path in (ROOT / package).rglob("*.py")]


def test_modules_stay_small() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert {str(path): size for path, size in sizes.items() if size > 300} == {}


def test_functions_stay_small() -> None:
    long = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                size = node.end_lineno - node.lineno + 1
                if size > 50:
                    long[f"{path}: {node.name}"] = size
    assert long == {}
