"""What TensorRT's Python packages offer: generator of `trt_surface.txt`, and the reader of our own code that
uses it.

    python tests/lfdeploy/trt_surface.py FOLDER...

Each FOLDER holds one `tensorrt_cu*_bindings` wheel (`uv pip install --no-deps --target FOLDER
tensorrt_cu13_bindings==11.4.*`), the real bindings. The libraries below them are not needed to look: the C
entry points that the bindings import are compiled here as empty functions (gcc). tensorrt_rtx is read as it
is installed. Nothing is called, only `dir()`.
"""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = HERE / "trt_surface.txt"
SOURCES = [
    HERE.parents[1] / "lfdeploy" / "backends" / f"{name}.py"
    for name in ("trt", "trt_build", "trt_layers", "trt_session")
]

#: what our variables hold; an attribute of any of them must be in the packages
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "shapes": "IOptimizationProfile",
    "tensor": "ITensor",
    "layer": "ILayer",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "settings": "IRuntimeConfig",
    "flags": "NetworkDefinitionCreationFlag",
}


@dataclass(frozen=True)
class Function:
    """One of our functions: dotted names it takes from TensorRT, and those it asks for with hasattr first."""

    name: str
    touched: frozenset[str]
    guards: frozenset[str]


def functions(source: str) -> list[Function]:
    """Every function in a module's source that touches TensorRT."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            inside = list(ast.walk(function))
            touched = {name for node in inside if isinstance(node, ast.Attribute) for name in _owned(node)}
            asked = [
                node.args
                for node in inside
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr"
            ]
            named = [
                ast.Attribute(owner, str(name.value))
                for owner, name in asked
                if isinstance(name, ast.Constant)
            ]
            guards = {name for node in named for name in _owned(node)}
            found.append(Function(function.name, frozenset(touched | guards), frozenset(guards)))
    return [function for function in found if function.touched]


def _owned(node: ast.Attribute) -> Iterator[str]:
    """``trt.A.B`` gives A and A.B, ``config.x`` gives IBuilderConfig.x; attributes of other things
    give nothing.
    """
    chain: list[str] = []
    here: ast.expr = node
    while isinstance(here, ast.Attribute):
        chain.insert(0, here.attr)
        here = here.value
    root = here.id if isinstance(here, ast.Name) else ""
    for holder in ("self", "session"):  # self.context.x, session.engine.x
        if root == holder and len(chain) > 1 and (chain[0] in CLASSES or chain[0] == "trt"):
            root, chain = chain[0], chain[1:]
    if root == "trt" and not chain[0].startswith("__"):
        yield ".".join(chain[:2]) if len(chain) > 1 and not chain[1].startswith("__") else chain[0]
    elif root in CLASSES:
        yield f"{CLASSES[root]}.{chain[0]}"


def offered(module: Any) -> set[str]:
    """Every public name of a module and of its classes, dotted."""
    names = set()
    for name in dir(module):
        if not name.startswith("_"):
            names |= {name} | {
                f"{name}.{part}" for part in dir(getattr(module, name)) if not part.startswith("_")
            }
    return names


def ours() -> list[Function]:
    """`functions` of the modules that speak with TensorRT."""
    return [function for path in SOURCES for function in functions(path.read_text())]


def recorded() -> dict[str, frozenset[str]]:
    """The file: versions by name."""
    lines = [line.split(":") for line in NAMES.read_text().splitlines() if not line.startswith("#")]
    return {name: frozenset(versions.split()) for name, versions in lines}


def _stubs(bindings: Path, where: Path) -> None:
    """Empty libraries with the C functions that one bindings file imports, under the names it asks for."""
    shared = next(bindings.glob("tensorrt*.so"))
    text = subprocess.run(["readelf", "-d", shared], capture_output=True, text=True, check=True).stdout
    libraries = [
        line.split("[")[1].rstrip("]") for line in text.splitlines() if "NEEDED" in line and "libnv" in line
    ]
    text = subprocess.run(
        ["nm", "-D", "--undefined-only", shared], capture_output=True, text=True, check=True
    ).stdout
    wanted = [
        line.split()[-1]
        for line in text.splitlines()
        if "INTERNAL" in line or "Plugin" in line or "NvOnnx" in line
    ]
    code = where / "stub.c"
    code.write_text(
        "".join(f"void *{name}(void) {{ return 0; }}\n" for name in dict.fromkeys(wanted) if "@" not in name)
    )
    for library in libraries:
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", where / library, code], check=True
        )


def _main(folders: list[str]) -> None:
    # a process of its own per version, with the stubs on its library path
    if folders and folders[0] == "--read":
        sys.path.insert(0, folders[1])
        module = importlib.import_module("tensorrt_bindings.tensorrt" if folders[1] else "tensorrt_rtx")
        print("\n".join(sorted(offered(module))))
        return
    columns: dict[str, set[str]] = {}
    for folder in [*folders, ""]:
        with tempfile.TemporaryDirectory() as stubs:
            if folder:
                _stubs(Path(folder) / "tensorrt_bindings", Path(stubs))
            info = next(iter(Path(folder).glob("*_bindings-*.dist-info")), None) if folder else None
            name = ".".join(info.name.split("-")[1].split(".")[:2]) if info else "rtx"
            command = [sys.executable, __file__, "--read", folder]
            done = subprocess.run(
                command,
                env=os.environ | {"LD_LIBRARY_PATH": stubs},
                capture_output=True,
                text=True,
                check=True,
            )
            columns[name] = set(done.stdout.split())
    wanted = sorted(set().union(*(function.touched for function in ours())))
    lines = [f"# written by trt_surface.py from the packages' own bindings: {' '.join(columns)}"]
    lines += [
        f"{name}: {' '.join(version for version, names in columns.items() if name in names)}"
        for name in wanted
    ]
    NAMES.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1:])
