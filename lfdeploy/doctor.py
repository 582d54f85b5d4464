"""`lfdeploy doctor`: what is installed, what works here and why not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lfdeploy.console import document, table
from lfdeploy.errors import LfdeployError


def doctor(artifact: str | None, runs: str, as_json: bool) -> None:
    """What is installed, what works here and why not; or, of an artifact, whether it
    is whole and runs here.
    """
    if artifact:
        return _doctor_of(artifact, runs, as_json)
    import importlib.util
    import sys

    import lfdeploy
    from lfdeploy.backends import BACKENDS
    from lfdeploy.devices import gpus
    from lfdeploy.run import versions

    home = Path(lfdeploy.__file__).resolve().parent.parent
    strangers = []
    for stage in ("training", "export", "serve"):
        found = importlib.util.find_spec(stage)
        if found is None or found.origin is None or Path(found.origin).resolve().parent.parent != home:
            strangers.append(
                f"'{stage}' is imported from {found.origin if found else 'nowhere'}, not from {home}"
            )
    facts: dict[str, Any] = {
        "versions": versions(),
        "cpus": os.cpu_count(),
        "gpus": [f"{gpu.name} (compute capability {gpu.capability})" for gpu in gpus()],
        "backends": {
            name: {"builds": row.missing() or "yes", "runs": row.cannot_run() or row.missing() or "yes"}
            for name, row in BACKENDS.items()
        },
        "problems": strangers,
    }
    if as_json:
        document(facts)
    else:
        table("Versions", ["package", "version"], [[k, v] for k, v in facts["versions"].items()], left=2)
        cells = [[name, told["builds"], told["runs"]] for name, told in facts["backends"].items()]
        table("Backends", ["backend", "builds here", "runs here"], cells, left=3)
        gpu_names = ", ".join(facts["gpus"]) or "none"
        click.echo(f"CPU cores: {facts['cpus']}   GPUs: {gpu_names}   Python: {sys.executable}")
    if strangers:
        raise LfdeployError(f"{strangers[0]}; reinstall lfdeploy into an environment of its own.")


def _doctor_of(name: str, runs: str, as_json: bool) -> None:
    from lfdeploy.artifact import resolve
    from lfdeploy.devices import gpus, unusable
    from lfdeploy.diagnosis import diagnose
    from lfdeploy.run import versions

    artifact = resolve(name, runs)
    artifact.check_file()
    faults: dict[str, str] = {}
    if artifact.manifest["format"] == "trt":
        from lfdeploy.backends.trt import INVALID, MODULES, header_faults

        package = str(artifact.manifest.get("engine", {}).get("package"))
        faults = (
            {name: INVALID.get(name, name) for name in header_faults(package, artifact.file)}
            if package in MODULES
            else {}
        )
    library = {"onnx": "onnxruntime", "openvino": ""}.get(str(artifact.manifest["format"]), "torch")
    found = diagnose(artifact, gpus(), versions(), faults, unusable(library) if library else "")
    told = {
        "name": artifact.name,
        "whole": True,
        "runs_here": found.state == "runs here",
        "state": found.state,
        "reason": found.reason,
        "command": found.command,
        "verdict": artifact.verdict,
    }
    if as_json:
        document({"versions": versions(), "artifact": told})
        return
    click.echo(f"{artifact.name}: whole (its bytes are the manifest's), parity {artifact.verdict}")
    click.echo(f"{found.state}: {found.reason}")
    click.echo(f"Next: {found.command}")
