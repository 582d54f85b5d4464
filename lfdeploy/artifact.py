"""An artifact directory: a model file, its manifest, its model card. It exists only when it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, ParityError
from lfdeploy.images import RESIZE, SUFFIXES
from lfdeploy.run import Run, sha256, shown
from lfdeploy.runs import all_runs, newest, newest_first

SCHEMA = 1
#: What lies in an artifact's directory beside the files of its model.
OWN_FILES = (
    "manifest.json", "README.md", "report.html", "reason.json", "parity.json", "source.onnx", "float.onnx",
)  # fmt: skip
NEEDED = {  # keys of every manifest, and of which kind they are
    "schema": int,
    "target": str,
    "format": str,
    "precision": str,
    "file": str,
    "sha256": str,
    "input": dict,
    "outputs": list,
    "labels": list,
    "batch": dict,
    "run": dict,
    "parity": dict,
}


@dataclass(frozen=True, repr=False)
class Artifact:
    """A directory and its manifest."""

    path: Path
    manifest: dict[str, Any]

    def __repr__(self) -> str:  # a manifest is 16 KB
        return f"Artifact('{self.path}', parity {self.verdict})"

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def file(self) -> Path:
        """The model file."""
        return self.path / str(self.manifest["file"])

    @property
    def verdict(self) -> str:
        """``pass``, ``fail`` or ``unverified``."""
        return str(self.manifest["parity"]["verdict"])

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 by name: of the model file, and of those that belong to it (``files``)."""
        extra = {name: str(told["sha256"]) for name, told in self.manifest.get("files", {}).items()}
        return {str(self.manifest["file"]): str(self.manifest["sha256"])} | extra

    def check_file(self) -> None:
        """Raise `ParityError` (stage file) unless the bytes of every file are the manifest's, and it is as it
        was written.
        """
        if self.manifest.get("manifest_sha256") != sealed(self.manifest)["manifest_sha256"]:
            raise ParityError(
                f"stage file: {self.name}/manifest.json was changed after it was written. Export it again."
            )
        for name, wanted in self.hashes.items():
            if not (self.path / name).is_file():
                raise ParityError(f"stage file: {self.name} has no {name}. Export it again.")
            found = sha256(self.path / name)
            if found != wanted:
                raise ParityError(
                    f"stage file: {self.name}/{name} has sha256 {found[:12]}..., its manifest says "
                    f"{wanted[:12]}...: "
                    f"the file is not the one that was verified. Export it again."
                )


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the hash of all its other keys, in canonical JSON."""
    body = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return body | {"manifest_sha256": hashlib.sha256(text.encode()).hexdigest()}


def read(path: Path) -> Artifact:
    """An artifact by its directory."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LfdeployError(
            f"{path} is not an artifact: it has no manifest.json. See: lfdeploy list artifacts"
        ) from None
    except ValueError as error:
        raise ParityError(f"stage file: {path}/manifest.json is damaged: {error}. Export it again.") from None
    lacking = [key for key in NEEDED if key not in manifest] if isinstance(manifest, dict) else list(NEEDED)
    if lacking:
        raise ParityError(f"stage file: {path}/manifest.json lacks {', '.join(lacking)}. Export it again.")
    for key, kind in NEEDED.items():
        if type(manifest[key]) is not kind:
            raise ParityError(
                f"stage file: {path}/manifest.json has {key} {json.dumps(manifest[key])[:60]}. Export "
                "it again."
            )
    sizes = [manifest["batch"].get(key) for key in ("min", "opt", "max")]
    if not (all(type(size) is int for size in sizes) and 1 == sizes[0] <= sizes[1] <= sizes[2]):
        raise ParityError(
            f"stage file: {path}/manifest.json has batch {json.dumps(manifest['batch'])}. Export it again."
        )
    if manifest["schema"] != SCHEMA:
        raise LfdeployError(f"{path} has manifest schema {manifest['schema']}; this lfdeploy reads {SCHEMA}.")
    return Artifact(path, manifest)


def all_artifacts(runs: str | Path = "runs") -> list[Artifact]:
    """Every artifact of every run, the newest run first."""
    found = []
    for run in newest_first(runs):
        found += of_run(run)
    return found


def of_run(run: Run) -> list[Artifact]:
    """A run's artifacts by name; a damaged one is named on standard error and left out."""
    found = []
    for path in sorted(run.artifacts.glob("*/manifest.json")):
        try:
            found += [] if path.parent.name.startswith(".") else [read(path.parent)]
        except LfdeployError as error:
            say(f"Left out: {error}")
    return found


def resolve(given: str | Path, runs: str | Path = "runs", tell: bool = True) -> Artifact:
    """An artifact by its path, its model file's path, or its name.

    A name is looked up in the newest run, then in the others from the newest on; ``tell`` which was taken.
    """
    path = Path(given)
    if path.is_file():
        return _of_file(path)
    if path.is_dir() and str(given):
        return read(path)
    named = _named(str(given), runs, ("",), tell)
    if named is not None:
        return named
    run, _, name = str(given).rpartition("/")  # as the page calls one of two that have the same name
    if (Path(runs) / run / "artifacts" / name / "manifest.json").is_file():
        return read(Path(runs) / run / "artifacts" / name)
    names = (
        ", ".join(dict.fromkeys(a.name for a in all_artifacts(runs)))
        or "none; make one with: lfdeploy export"
    )
    raise LfdeployError(f"There is no artifact '{given}'. Artifacts in {runs}/: {names}.")


def _of_file(file: Path) -> Artifact:
    """The artifact that a file belongs to. Raises `LfdeployError` for one that only lies beside it."""
    if not (file.parent / "manifest.json").is_file():
        picture = file.suffix.lower() in SUFFIXES
        hint = (
            "It is a picture: the artifact comes first"
            if picture
            else "A bare model is taken by lfdeploy bench"
        )
        raise LfdeployError(f"{file} lies in no artifact: there is no manifest.json beside it. {hint}.")
    artifact = read(file.parent)
    if file.name not in (*artifact.hashes, *OWN_FILES):
        own = ", ".join(artifact.hashes)
        raise LfdeployError(
            f"{file} is no file of the artifact {artifact.name}, which is {own}. Name its directory for that "
            "one; another model is measured by lfdeploy bench."
        )
    return artifact


def find(given: str | Path, runs: str | Path = "runs") -> Artifact:
    """As `resolve`, but also an artifact in quarantine, where its run has published none of that name."""
    named = None if Path(given).exists() else _named(str(given), runs, ("", "quarantine"))
    return named if named is not None else resolve(given, runs)


def _named(name: str, runs: str | Path, folders: Iterable[str], tell: bool = True) -> Artifact | None:
    """The artifact of that plain name in the newest run that has it, in the first of these of its folders."""
    if name in ("", "quarantine") or "/" in name or name.startswith(".") or not all_runs(runs):
        return None
    first = newest(runs)
    for run in newest_first(runs):
        for folder in folders:
            place = run.artifacts / folder / name
            if (place / "manifest.json").is_file():
                other = f"{first.name}, the newest run, has none of that name"
                whose = "of the newest run" if run.name == first.name else other
                if tell:
                    say(f"Artifact: {shown(place)} ({whose})")
                return read(place)
    return None


def run_of(artifact: Artifact, run: str | None = None, runs: str | Path = "runs") -> Run:
    """The run an artifact came from: given, the directory it lies in, or by name; its weights must be
    the same.
    """
    wanted = artifact.manifest["run"]
    found = _place_of_run(artifact, run, runs)
    if found is not None:
        if sha256(found.weights) != wanted["weights_sha256"]:
            raise ParityError(
                f"stage file: {artifact.name} was exported from other weights than "
                f"{found.name}/model.safetensors holds now. Export it again."
            )
        return found
    namesake = Run(Path(runs) / str(wanted["name"]))
    other = f" {shown(namesake.path)} has other weights." if not run and namesake.weights.is_file() else ""
    raise LfdeployError(
        f"The run '{wanted['name']}' of {artifact.name} is not here; name the directory that holds it with "
        f"--runs.{other}"
    )


def has_run(artifact: Artifact, runs: str | Path = "runs") -> bool:
    """Whether the run that an artifact came from is here."""
    return _place_of_run(artifact, None, runs) is not None


def _place_of_run(artifact: Artifact, run: str | None, runs: str | Path) -> Run | None:
    """The run that is given, or that the artifact lies in; one that has its name alone only where it has the
    same weights: another project may have a run of that name.
    """
    beside = artifact.path.resolve().parent.parent
    beside = beside.parent if artifact.path.resolve().parent.name == "quarantine" else beside
    named = Path(runs) / str(artifact.manifest["run"]["name"])
    for path in [Path(run), Path(runs) / run] if run else [beside, named]:
        if (path / "spec.json").is_file() and (path / "model.safetensors").is_file():
            found = Run(path)
            if run or path is beside or sha256(found.weights) == artifact.manifest["run"]["weights_sha256"]:
                return found
    return None


def check_resize(artifact: Artifact) -> None:
    """Raise `LfdeployError` unless the artifact wants its pictures fitted by the one
    rule that there is here.
    """
    rule = artifact.manifest["input"].get("resize")
    if rule != RESIZE:
        version = rule.get("version", "?") if isinstance(rule, dict) else rule
        raise LfdeployError(
            f"{artifact.name} wants its pictures fitted by another rule than this lfdeploy has (its version "
            f"{version}, here {RESIZE['version']}; input.resize in manifest.json): its answers would be "
            "wrong. Export it again."
        )


def input_of(size: int) -> dict[str, Any]:
    """The input contract: uint8 NHWC pixels at model size, fitted by the one rule."""
    return {
        "name": "images",
        "dtype": "uint8",
        "layout": "NHWC",
        "height": size,
        "width": size,
        "resize": RESIZE,
    }


def outputs_of(classes: int) -> list[dict[str, Any]]:
    """The outputs, in the graph's order."""
    return [
        {"name": name, "dtype": "float32", "shape": ["batch", classes]}
        for name in ("logits", "probabilities")
    ]
