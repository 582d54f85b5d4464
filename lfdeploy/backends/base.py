"""What a backend is: it builds its file from a traced classifier, opens it, and answers uint8 pixels with
probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lfdeploy.backends.facts import Facts
from lfdeploy.images import Pixels
from lfdeploy.run import Run

Floats = NDArray[np.float32]
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


class Session(Protocol):
    """An opened model. ``backend`` and ``device`` are what really executes, read back after opening."""

    backend: str
    device: str

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """uint8 (B, H, W, 3) to logits and probabilities, both float32 (B, K).

        Raises ValueError for other input.
        """
        ...

    def named(self, images: Pixels) -> dict[str, Floats]:
        """Every output that the manifest names, float32 (B, ...), in its order."""
        ...


@dataclass(frozen=True)
class Source:
    """What there is to open: a file with its manifest, and the run it came from where a backend needs it.

    ``threads`` on the CPU; 0 leaves the number to the backend (PyTorch's is always the process's own).
    """

    file: Path
    manifest: Mapping[str, Any]
    run: Run | None = None
    threads: int = 0


@dataclass(frozen=True)
class Material:
    """What there is to build from: the canonical ONNX file, and the batch profile (min, opt, max).

    ``program()`` traces the same classifier anew as a `torch.export.ExportedProgram`; ``facts`` is what a
    lone file must know of itself (the ONNX file has it in metadata_props). ``portable``: the engine must run
    on other GPUs too.
    """

    onnx: Path
    profile: tuple[int, int, int]
    program: Callable[[], Any]
    facts: Mapping[str, Any]
    portable: bool = False


@dataclass(frozen=True)
class Backend:
    """A row of the table.

    ``facts(path)`` reads what a file says of itself without executing it,
    ``difference(path, other, precision)`` how two files differ (`alike.SAME` where they do not); a row that
    cannot do one of them says in ``opaque`` why, and what nobody can read is never called verified.

    ``format`` and ``file`` say what it executes; ``build(material, out)`` makes that file, and the ``extra``
    ones beside it, and returns what the manifest should say of an engine. ``missing()`` gives the reason why
    it cannot be used here, or an empty string; ``cannot_run()`` why a built file could not be executed here.
    Only ``precisions`` can be built.
    """

    about: str
    format: str
    file: str
    missing: Callable[[], str]
    cannot_run: Callable[[], str]
    build: Callable[[Material, Path], dict[str, Any]] | None
    open: Callable[[Source, str], Session]
    facts: Callable[[Path], Facts] | None = None
    difference: Callable[[Path, Path, str], str] | None = None
    opaque: str = ""
    extra: tuple[str, ...] = ()
    precisions: tuple[str, ...] = PRECISIONS


def checked(images: Pixels, manifest: Mapping[str, Any]) -> Pixels:
    """The images, contiguous; ValueError unless they are uint8 (B, H, W, 3) within the batch profile."""
    height, width, most = manifest["input"]["height"], manifest["input"]["width"], manifest["batch"]["max"]
    if images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype}; they must be uint8.")
    if images.ndim != 4 or images.shape[1:] != (height, width, 3):
        raise ValueError(f"images have shape {images.shape}; they must be (B, {height}, {width}, 3).")
    if not 1 <= len(images) <= most:
        raise ValueError(f"batch of {len(images)}; this artifact serves 1 to {most}.")
    return np.ascontiguousarray(images)


def output_names(manifest: Mapping[str, Any]) -> list[str]:
    """Names of a model's outputs, in order; the first two are logits and probabilities."""
    return [
        str(o["name"]) for o in manifest.get("outputs", ({"name": n} for n in ("logits", "probabilities")))
    ]


def in_chunks(session: Session, images: Pixels, most: int) -> tuple[Floats, Floats]:
    """Logits and probabilities of any number of images (N, H, W, 3), at most ``most`` at a time."""
    parts = [session(images[start : start + most]) for start in range(0, len(images), most)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def named_in_chunks(session: Session, images: Pixels, most: int) -> dict[str, Floats]:
    """Every output for any number of images (N, H, W, 3), at most ``most`` at a time."""
    parts = [session.named(images[start : start + most]) for start in range(0, len(images), most)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
