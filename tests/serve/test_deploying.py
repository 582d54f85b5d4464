"""docs/deploying.md: what it says of packages is what the project says, and its Python runs."""

from __future__ import annotations

import asyncio
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from serve_pictures import JPEG

from lfdeploy.predict import Predictor
from lfdeploy.run import Run

ROOT = Path(__file__).parents[2]


def test_what_serving_needs_is_what_the_project_needs() -> None:
    """The same bounds; onnxruntime alone is that for CPUs."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "serve" / "requirements.txt").read_text().splitlines()
    named = [line for line in lines if not line.startswith("#")]
    assert [line for line in named if not line.startswith("onnxruntime")] == [
        line for line in wanted if line in named
    ]
    (runtime,) = (line for line in named if line.startswith("onnxruntime"))
    assert any(line.startswith(f"{runtime};") for line in wanted)


def test_an_image_has_what_the_package_is_built_from() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["uv"]["build-backend"]["module-name"]
    assert kept == {"pyproject.toml", "README.md", *project["project"]["license-files"], *packages}


def test_the_deployment_for_ray_answers(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its class as it stands, with decorators that do what Ray's do for a single call."""

    def deployment(**_: Any) -> Any:
        return lambda kind: SimpleNamespace(bind=kind)

    def batch(**_: Any) -> Any:
        def alone(method: Any) -> Any:
            async def called(self: Any, item: Any) -> Any:
                return (await method(self, [item]))[0]

            return called

        return alone

    ray: Any = ModuleType("ray")
    ray.serve = SimpleNamespace(deployment=deployment, batch=batch)
    monkeypatch.setitem(sys.modules, "ray", ray)
    artifact = str(tiny_run.artifacts / "peer0-onnx-fp32")
    code = re.search(r"```python\n(from ray.*?)```", (ROOT / "docs" / "deploying.md").read_text(), re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    exec(code[1].replace("runs/NAME/artifacts/peer0-onnx-fp32", artifact), names)

    async def body() -> bytes:
        return JPEG

    told = asyncio.run(names["app"](SimpleNamespace(body=body)))
    assert told["top"] == Predictor.open(artifact).predict(JPEG).top and not told["error"]
