"""`lfdeploy doctor`: what is installed, what works here and why not; of an artifact, whether it runs here.

For an artifact the manifest, the file's hash, the driver's list of GPUs and the installed versions suffice.
Of an engine its package is asked too, where it is installed and can tell from the header.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from lfdeploy.artifact import Artifact
from lfdeploy.config import flags_of
from lfdeploy.console import document, table
from lfdeploy.devices import Gpu
from lfdeploy.errors import LfdeployError, ParityError
from lfdeploy.run import shown

#: formats that are no engine: distributions of which one is needed, how to get one, and whether it uses a GPU
RUNTIMES = {
    "onnx": (("onnxruntime", "onnxruntime-gpu"), "pip install onnxruntime-gpu", "both"),
    "torch": (("torch",), "pip install torch", "both"),
    "openvino": (("openvino",), "pip install openvino", "cpu"),
}
REFUSALS = {"UNSUPPORTED_CC": "wrong GPU", "VERSION_MISMATCH": "wrong version"}
AMPERE = (8, 0)


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


@dataclass(frozen=True)
class Diagnosis:
    """``state``: runs here, package missing, no GPU, wrong GPU, wrong version, damaged, refused or not known.

    ``command``: what to type then.
    """

    state: str
    reason: str
    command: str


def diagnose(
    artifact: Artifact,
    gpus: Sequence[Gpu],
    installed: Mapping[str, str],
    faults: Mapping[str, str] = MappingProxyType({}),
    unusable: str = "",
) -> Diagnosis:
    """Judge an artifact for a machine with these GPUs and installed distributions (name to version).

    ``faults`` is what the engine's package finds wrong with its header: names of its diagnostics with a
    sentence for each. ``unusable`` says why the library that runs it cannot use the GPUs, where that
    was tried.

    The artifact's bytes are not looked at; `Artifact.check_file` does that. Raises `ParityError` (stage file)
    for an engine's manifest that does not say what built it.
    """
    if artifact.manifest["format"] in RUNTIMES:
        return _of_file(artifact, gpus, installed, unusable)
    if "engine" not in artifact.manifest and artifact.manifest["format"] != "trt":
        reason = f"nothing here says what a {artifact.manifest['format']} file needs"
        return Diagnosis("not known", reason, f"lfdeploy verify {_path(artifact)}")
    return _of_engine(artifact, gpus, installed, faults, unusable)


def _of_file(
    artifact: Artifact, gpus: Sequence[Gpu], installed: Mapping[str, str], unusable: str
) -> Diagnosis:
    packages, install, where = RUNTIMES[artifact.manifest["format"]]
    if not set(packages) & set(installed):
        return Diagnosis("package missing", f"{packages[0]} is not installed", install)
    on_gpu = bool(gpus) and where == "both"
    reason = f"{packages[0]} on {'the GPU or ' if on_gpu and not unusable else ''}the CPU"
    reason += f"; {unusable}" if on_gpu and unusable else ""
    return Diagnosis("runs here", reason, f"lfdeploy predict {_path(artifact)} PICTURE")


def _of_engine(
    artifact: Artifact,
    gpus: Sequence[Gpu],
    installed: Mapping[str, str],
    faults: Mapping[str, str],
    unusable: str,
) -> Diagnosis:
    manifest = artifact.manifest
    try:
        engine = manifest["engine"]
        package, built = str(engine["package"]), str(engine["version"])
        able = [str(capability) for capability in engine["compute_capabilities"]]
    except (KeyError, TypeError):
        raise ParityError(
            f"stage file: {artifact.name}/manifest.json does not say what built its engine. Export it again."
        ) from None
    if "MALFORMED_ENGINE" in faults:
        return Diagnosis(
            "damaged", faults["MALFORMED_ENGINE"], f"{_export(manifest, 'trt')} --engine {package}"
        )
    if unusable or not gpus:
        why = unusable if gpus else "this machine shows none"
        reason = f"{package} engines run on an NVIDIA GPU only, and {why}"
        return Diagnosis("no GPU", reason, _export(manifest, "onnx"))
    if package not in installed:
        return Diagnosis("package missing", f"{package} is not installed", f"pip install {package}=={built}")
    gpu, rebuild = gpus[0], _export(manifest, "trt")
    portable = bool(engine.get("portable"))
    if not (_suits(gpu.capability, able, package) or (portable and _number(gpu.capability) >= AMPERE)):
        reason = f"{gpu.name} has compute capability {gpu.capability}; the engine was built for "
        return Diagnosis("wrong GPU", reason + ", ".join(able), f"{rebuild} --engine tensorrt")
    here = installed[package]
    if here != built and not (portable and _later(here, built)):
        reason = f"built by {package} {built}, here is {here}; engines belong to the version that built them"
        return Diagnosis("wrong version", reason, f"{rebuild} --engine {package}")
    for name, reason in faults.items():
        again = f"{rebuild} --engine {'tensorrt' if name == 'UNSUPPORTED_CC' else package}"
        return Diagnosis(REFUSALS.get(name, "refused"), f"{package} {built} on {gpu.name}: {reason}", again)
    return Diagnosis("runs here", f"{package} {built} on {gpu.name}", f"lfdeploy verify {_path(artifact)}")


def _later(here: str, built: str) -> bool:
    """Whether a version-compatible engine of one version opens under another: a later one of the same or the
    next major.
    """
    return _number(here) >= _number(built) and _number(here)[0] - _number(built)[0] <= 1


def _suits(capability: str, able: Sequence[str], package: str) -> bool:
    """TensorRT engines run on the capability they were built on; RTX's on those listed and on all after
    the last.
    """
    if package == "tensorrt-rtx":
        return capability in able or _number(capability) > max(map(_number, able))
    return capability in able


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _path(artifact: Artifact) -> str:
    return shlex.quote(shown(artifact.path))


def _export(manifest: Mapping[str, Any], format: str) -> str:
    """The command that makes this target anew in a format."""
    words = flags_of(str(manifest["target"]))
    return (
        f"lfdeploy export {shlex.quote(manifest['run']['name'])} {words} --format {format} --precision "
        f"{manifest['precision']}"
    )
