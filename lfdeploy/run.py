"""A run directory: what training writes and every other stage reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from errno import EEXIST, ENOTDIR, ENOTEMPTY
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfdeploy.config import DataConfig
from lfdeploy.errors import LfdeployError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from lfdeploy.data import Data, Report
    from lfdeploy.models.deploy import Classifier
    from lfdeploy.record import Record

SCHEMA = 1


def write_json(path: Path, value: object) -> None:
    """Write under a temporary name, then rename: a file that exists is whole."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, blob: bytes) -> None:
    """Write under a temporary name, then rename."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(blob)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def check_name(name: str | None) -> None:
    """Raise `UsageError` for what cannot be a run's name."""
    if name is not None and (name.startswith(".") or name in ("", "latest") or Path(name).name != name):
        raise UsageError(f"--name is '{name}'; it must be the plain name of a directory in --runs.")


def may_write(flag: str, name: str) -> None:
    """Raise `UsageError` before any work where the file that a flag names could not be written."""
    folder = Path(name).absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{flag} {name}: there is no directory {Path(name).parent}; make it first.")
    if Path(name).is_dir():
        raise UsageError(f"{flag} {name}: that is a directory; name a file in it.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{flag} {name}: {Path(name).parent} may not be written; name another place.")


def sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Run:
    """A directory with config.json, spec.json, splits.npz, metrics.jsonl, summary.json, model.safetensors, checkpoint/."""

    path: Path

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.resolve().name

    def read(self, file: str) -> dict[str, Any]:
        """One of the run's JSON documents."""
        try:
            value: dict[str, Any] = json.loads((self.path / file).read_text())
        except FileNotFoundError:
            raise LfdeployError(f"{self.path} has no {file}; it is not a run of lfdeploy.") from None
        except ValueError as error:
            raise LfdeployError(f"{self.path / file} is damaged: {error}.") from None
        return value

    @property
    def spec(self) -> dict[str, Any]:
        """Classes, image size, resize rule, mean, std, architectures, method: enough to rebuild the networks."""
        return self.read("spec.json")

    @property
    def weights(self) -> Path:
        """model.safetensors: all weights of the kept epoch."""
        return self.path / "model.safetensors"

    @property
    def artifacts(self) -> Path:
        """Where exports of this run go."""
        return self.path / "artifacts"

    def finished(self) -> Run:
        """The run itself, or an error that says how to finish it."""
        if not (self.path / "summary.json").exists():
            raise LfdeployError(f"Run {self.name} has not finished training. Finish it with: lfdeploy train --resume {shown(self.path)}")
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, read without executing code."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors: dict[str, Tensor] = load_file(self.weights)
        except (SafetensorError, FileNotFoundError) as error:
            raise LfdeployError(f"{self.weights} cannot be read: {error}.") from None
        return tensors

    def classifier(self, target: str) -> Classifier:
        """One target as the fp32 module from uint8 pixels to (logits, probabilities), in eval mode; ``all`` has members' logits too."""
        from lfdeploy.models.deploy import Classifier, build_network
        from lfdeploy.models.together import ALL, build

        spec = self.spec
        if target == ALL:
            return build(spec, self.tensors())
        return Classifier(build_network(target, spec, self.tensors()), spec["mean"], spec["std"]).eval()

    def data_config(self, data: str | None = None) -> DataConfig:
        """The run's own data settings, or the same for another ``--data``."""
        config = self.read("config.json")
        known = {f.name for f in fields(DataConfig)}
        values = {key: value for key, value in config.items() if key in known}
        values["image_size"] = self.spec["image_size"]
        if data is not None:
            values["data"] = data
        return DataConfig(**values)

    def record(self) -> Record | None:
        """The pictures that the run was begun with; None for a run that has no record of them."""
        from lfdeploy.record import read_record

        spec = self.spec
        return read_record(self.path, spec["classes"], int(spec["image_size"]), spec["data_fingerprint"])

    def data(
        self, other: str | None = None, report: Report = lambda done, total: None, need: Sequence[str] = ("test",), alone: bool = False
    ) -> Data:
        """The pictures of this run, prepared and split as they were in training; with ``other`` those of another place.

        ``need``, ``alone``: see `lfdeploy.pictures.pictures_of`.
        """
        from lfdeploy.pictures import pictures_of

        return pictures_of(self, other, report, need, alone)


def config_json(config: object) -> dict[str, Any]:
    """A config dataclass as it is written to config.json: data by absolute path, so that it is found from anywhere."""
    values = asdict(config)  # type: ignore[call-overload]
    for key in ("data", "data_root"):
        if values.get(key) and Path(values[key]).exists():
            values[key] = str(Path(values[key]).resolve())
    return dict(values)


def new_run(runs: Path, name: str | None, stem: str, documents: Mapping[str, object]) -> Run:
    """A new run's directory with its first documents, whole from the first moment: named, or by ``stem`` and the next free number."""
    runs.mkdir(parents=True, exist_ok=True)
    staged = runs / f".new.{os.getpid()}"
    staged.mkdir()
    number = 1
    try:
        for file, document in documents.items():
            if isinstance(document, bytes):
                write_bytes(staged / file, document)
            else:
                write_json(staged / file, document)
        while True:
            path = runs / (name or f"{stem}-{number}")
            try:
                if path.exists():
                    raise FileExistsError
                os.rename(staged, path)
                return Run(path)
            except OSError as error:
                if error.errno not in (None, EEXIST, ENOTDIR, ENOTEMPTY):
                    raise
                if name is not None:
                    raise LfdeployError(f"There is a run '{name}' in {runs}/ already. Choose another --name, or --resume {name}.") from None
                number += 1
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def resolve(run: str | Path | None, runs: str | Path = "runs") -> Run:
    """A run by path or name; None means runs/latest. Raises with the names there are."""
    if run is not None:
        for path in (Path(run), Path(runs) / run):
            if (path / "config.json").is_file():
                return Run(path.resolve() if path.is_symlink() else path)
        names = ", ".join(sorted(r.name for r in all_runs(runs))) or "none; make one with: lfdeploy train"
        raise LfdeployError(f"There is no run '{run}'. Runs in {runs}/: {names}.")
    latest = Path(runs) / "latest"
    if not (latest / "config.json").is_file():
        raise LfdeployError(f"There is no run in {runs}/ yet. Make one with: lfdeploy train")
    return Run(Path(runs) / latest.resolve().name)


def all_runs(runs: str | Path) -> list[Run]:
    """Every run in a directory, oldest first."""
    found = [p for p in Path(runs).glob("*") if (p / "config.json").is_file() and not p.is_symlink()]
    return [Run(p) for p in sorted(found, key=lambda p: (p / "config.json").stat().st_mtime)]


def point_latest(run: Run) -> None:
    """Make runs/latest a link to this run, in one step."""
    link = run.path.parent / "latest"
    partial = run.path.parent / f".latest.{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(run.path.name)
    os.replace(partial, link)


def shown(path: Path) -> str:
    """A path as a person would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def versions() -> dict[str, str]:
    """Versions of the tools that decide numbers, by distribution name; only those installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    names = ("lfdeploy", "torch", "torchvision", "numpy", "pillow", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")
    for name in (*names, "tensorrt", "tensorrt-rtx", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
