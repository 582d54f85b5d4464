"""A run directory: what training writes and every other stage reads."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfdeploy.config import DataConfig
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.locks import owner_of

if TYPE_CHECKING:
    from torch import Tensor

    from lfdeploy.data import Data, Report
    from lfdeploy.models.deploy import Classifier
    from lfdeploy.recorded_splits import Record

SCHEMA = 1
NO_TABLES = (".json", ".xml", ".svg", ".html", ".py", ".jpg", ".jpeg", ".png", ".webp", ".gif", ".onnx")
HOPEFUL = 0.1  # no rate above it is proposed
DIVERGED = "diverged.json"  # in a run whose loss became no number


def write_json(path: Path, value: object) -> None:
    """Write under a temporary name, then rename: a file that exists is whole."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode(errors="backslashreplace"))  # a path that is no UTF-8, as JSON escapes it


def write_bytes(path: Path, blob: bytes) -> None:
    """Write under a temporary name, then rename; a link's file is written, a device or a pipe as it is."""
    if path.exists() and not path.is_file():
        path.write_bytes(blob)
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(blob)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        error.filename = str(path)  # what the reader knows, rather than the temporary name
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def may_write(flag: str, name: str, text: bool = True) -> None:
    """Raise `UsageError` before any work where the file that a flag names could not be written, or, for a
    ``text``, where it is there and is none: a picture or a model is not written over.
    """
    place = Path(name)
    if place.exists() and not place.is_file() and not place.is_dir():  # a device, or a pipe
        return
    folder = Path(name).absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{flag} {name}: there is no directory {Path(name).parent}; make it first.")
    if Path(name).is_dir():
        raise UsageError(f"{flag} {name}: that is a directory; name a file in it.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{flag} {name}: {Path(name).parent} may not be written; name another place.")
    if text and place.is_file() and (place.suffix.lower() in NO_TABLES or not _is_text(place)):
        raise UsageError(f"{flag} {name}: that file is there and is no table; name another.")


def _is_text(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return b"\0" not in opened.read(4096)
    except OSError:
        return False


def sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Run:
    """A directory with config.json, spec.json, splits.npz, metrics.jsonl, summary.json,
    model.safetensors, checkpoint/.
    """

    path: Path

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.resolve().name

    def read(self, file: str) -> dict[str, Any]:
        """One of the run's JSON documents."""
        try:
            value: dict[str, Any] = json.loads((self.path / file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LfdeployError(f"{self.path} has no {file}; it is not a run of lfdeploy.") from None
        except ValueError as error:
            raise LfdeployError(f"{self.path / file} is damaged: {error}.") from None
        return value

    @property
    def spec(self) -> dict[str, Any]:
        """Classes, image size, resize rule, mean, std, architectures, method: enough
        to rebuild the networks.
        """
        return self.read("spec.json")

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json of a finished run: accuracies in % by target, on the validation and the test split."""
        return self.finished().read("summary.json")

    @property
    def weights(self) -> Path:
        """model.safetensors: all weights of the kept epoch."""
        return self.path / "model.safetensors"

    @property
    def artifacts(self) -> Path:
        """Where exports of this run go."""
        return self.path / "artifacts"

    @property
    def lock(self) -> Path:
        """The lock that a training holds."""
        return self.path / ".lock"

    def diverged(self) -> str:
        """What to say of a run whose loss became no number; empty for any other."""
        if not (self.path / DIVERGED).exists():
            return ""
        found = self.read(DIVERGED)
        return (
            f"The loss is {found['loss']} in epoch {found['epoch']}: run {self.name} diverged. "
            f"Train again with a smaller rate: --lr {min(found['lr'] / 4, HOPEFUL):g}."
        )

    def finished(self) -> Run:
        """The run itself, or an error that says how to finish it, or which other one could be named."""
        if (self.path / "summary.json").exists():
            return self
        if self.diverged():
            raise LfdeployError(self.diverged())
        from lfdeploy.runs import newest_first

        done = [run.name for run in newest_first(self.path.parent) if (run.path / "summary.json").exists()]
        other = f" Or name a finished run: {done[0]}" if done else ""
        owner = owner_of(self.lock)
        if owner:
            raise LfdeployError(f"Run {self.name} is still training, by {owner}. Wait for it to end.{other}")
        how = f"Finish it with: lfdeploy train --resume {typed(self.path)}"
        raise LfdeployError(f"Run {self.name} has not finished training. {how}{f'.{other}' if other else ''}")

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
        """One target as the fp32 module from uint8 pixels to (logits, probabilities), in eval mode; ``all``
        has members' logits too.
        """
        from lfdeploy.models.deploy import Classifier, build_network
        from lfdeploy.models.multi_output import ALL, build

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
        from lfdeploy.recorded_splits import FILE, read_record

        spec = self.spec
        record = read_record(self.path, spec["classes"], int(spec["image_size"]), spec["data_fingerprint"])
        summary = self.path / "summary.json"
        if record is None and summary.exists() and self.read("summary.json").get("reference"):
            raise LfdeployError(
                f"{self.path / FILE} is gone: which pictures run {self.name} was trained on is no "
                "longer known. "
                "Put it back, or train a new run."
            )
        return record

    def data(
        self,
        other: str | None = None,
        report: Report = lambda done, total: None,
        need: Sequence[str] = ("test",),
        alone: bool = False,
    ) -> Data:
        """The pictures of this run, split as they were in training; with ``other`` those of another place.

        ``need``, ``alone``: see `lfdeploy.run_data.pictures_of`.
        """
        from lfdeploy.run_data import pictures_of

        return pictures_of(self, other, report, need, alone)


def config_json(config: object) -> dict[str, Any]:
    """A config dataclass as it is written to config.json: data and weights by absolute path, so that they are
    found from anywhere, but for what is known by its name.
    """
    from lfdeploy.sources import DATASETS

    values = asdict(config)  # type: ignore[call-overload]
    if values.get("cache") not in (None, "auto", "none"):
        values["cache"] = str(Path(values["cache"]).resolve())
    for key in ("data", "data_root", "weights"):
        if values.get(key) and values[key] not in (*DATASETS, "default") and Path(values[key]).exists():
            values[key] = str(Path(values[key]).resolve())
    return dict(values)


def shown(path: Path) -> str:
    """A path as a person would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def typed(path: Path) -> str:
    """A path as it stands in a command to type."""
    return shlex.quote(shown(path))


def versions() -> dict[str, str]:
    """Versions of the tools that decide numbers, by distribution name; only those installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import lfdeploy

    # lfdeploy's code may be run without being installed
    found = {"python": platform.python_version(), "lfdeploy": lfdeploy.__version__}
    names = (
        "torch", "torchvision", "numpy", "pillow", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime",
    )  # fmt: skip
    for name in (*names, "tensorrt", "tensorrt-rtx", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
