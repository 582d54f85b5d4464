"""Pictures in, labels and probabilities out, through whichever backend serves the artifact."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from PIL import Image

from lfdeploy.artifact import Artifact, check_resize, resolve, run_of
from lfdeploy.backends import BACKENDS, Session, Source, chosen
from lfdeploy.confidence import abstains
from lfdeploy.errors import LfdeployError, PictureError
from lfdeploy.familiarity import unfamiliar
from lfdeploy.images import Given, Pixels, decode, fit


@dataclass(frozen=True)
class Prediction:
    """One picture's answer: classes by falling probability, remarks about the picture, or why there is none.

    ``abstain``: the artifact is not sure of it; ``unfamiliar``: the picture is unlike those that it was
    trained on. None where its manifest says nothing of that.
    """

    source: str
    top: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    decode_ms: float = 0.0
    abstain: bool | None = None
    unfamiliar: bool | None = None

    @property
    def label(self) -> str:
        """The most probable class; empty for a picture that could not be read."""
        return self.top[0][0] if self.top else ""


@dataclass(frozen=True, repr=False)
class Predictor:
    """An artifact with an open session."""

    artifact: Artifact
    session: Session

    def __repr__(self) -> str:
        return f"Predictor({self.artifact!r}, {self.session.backend} on {self.session.device})"

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        backend: str = "auto",
        run: str | None = None,
        runs: str = "runs",
        threads: int = 0,
    ) -> Predictor:
        """Check the file's hash and open it. ``backend='pytorch'`` opens the run's module in the
        artifact's place. ``threads`` on the CPU; 0 leaves their number to the backend.
        """
        artifact = resolve(path, runs)
        artifact.check_file()
        check_resize(artifact)
        name = backend if backend == "pytorch" else chosen(artifact.manifest, backend)
        source = run_of(artifact, run, runs) if name == "pytorch" else None
        session = BACKENDS[name].open(Source(artifact.file, artifact.manifest, source, threads), device)
        return cls(artifact, session)

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the outputs."""
        return list(self.artifact.manifest["labels"])

    @property
    def size(self) -> int:
        """Side of the model's input."""
        return int(self.artifact.manifest["input"]["height"])

    def run(self, pixels: Pixels) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Logits and probabilities (N, K) of pixels uint8 (N, H, W, 3), any N."""
        from lfdeploy.backends.base import in_chunks

        if not len(pixels):
            return np.zeros((0, len(self.labels)), np.float32), np.zeros((0, len(self.labels)), np.float32)
        return in_chunks(self.session, pixels, int(self.artifact.manifest["batch"]["max"]))

    @overload
    def predict(self, pictures: str | Path | bytes | Image.Image, top: int = 5) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, pictures: Sequence[Given], top: int = 5) -> list[Prediction]: ...

    @overload
    def predict(self, pictures: np.ndarray[Any, Any], top: int = 5) -> Prediction | list[Prediction]: ...

    def predict(self, pictures: Given | Sequence[Given], top: int = 5) -> Prediction | list[Prediction]:
        """The answer for one picture, or a list of answers for a list or a batch, in order.

        A picture is a path, a file's bytes, a Pillow picture, or an array uint8 (H, W, 3), (H, W) or
        (H, W, 4); a batch is an array uint8 (N, H, W, C), and may also stand in a list. All of them become
        the same pixels as the file they came from. A picture that cannot be read gives a `Prediction` with
        ``error``; the others are answered. Raises `LfdeployError` for what is no picture at all, an array of
        another kind, or a ``top`` below 1.
        """
        if isinstance(top, bool) or not isinstance(top, SupportsIndex) or operator.index(top) < 1:
            raise LfdeployError(f"top is {top!r}; it must be a whole number from 1 on.")
        if isinstance(pictures, np.ndarray):
            answers = self._predicted(_named([pictures]), top)
            return answers[0] if pictures.ndim <= 3 else answers
        if isinstance(pictures, (str, Path, bytes, bytearray, memoryview, Image.Image)):
            return self._predicted(_named([pictures]), top)[0]
        if not isinstance(pictures, Iterable) or hasattr(pictures, "read"):
            decode(pictures)  # type: ignore[arg-type]  # says what a picture is
        return self._predicted(_named(pictures), top)

    def _predicted(self, pictures: Iterable[tuple[str, Given]], top: int) -> list[Prediction]:
        names, pixels, remarks = [], [], []
        for name, picture in pictures:
            start = time.perf_counter()
            names.append(name)
            try:
                decoded = decode(picture, self.size)
                pixels.append(fit(decoded.image, self.size))
                remarks.append((decoded.notes, "", (time.perf_counter() - start) * 1e3))
            except PictureError as error:
                remarks.append(((), str(error), 0.0))
        return self._answer(names, pixels, remarks, top)

    def _answer(
        self,
        names: list[str],
        pixels: list[Pixels],
        remarks: Sequence[tuple[tuple[str, ...], str, float]],
        top: int,
    ) -> list[Prediction]:
        answers = []
        logits, probabilities = self.run(np.stack(pixels)) if pixels else (np.empty((0, 1)),) * 2
        strange = unfamiliar(self.artifact.manifest, logits)
        rows = iter(zip(probabilities, strange, strict=True))
        for name, (notes, error, spent) in zip(names, remarks, strict=True):
            if error:
                answers.append(Prediction(name, error=error))
                continue
            row, odd = next(rows)
            order = np.argsort(-row, kind="stable")[:top]
            best = tuple((self.labels[i], float(row[i])) for i in order)
            unsure = abstains(self.artifact.manifest, float(row.max()))
            answers.append(Prediction(name, best, notes, decode_ms=spent, abstain=unsure, unfamiliar=odd))
        return answers


def _named(pictures: Iterable[Given]) -> Iterator[tuple[str, Given]]:
    """Each picture with the name that its answer has; a batch (N, H, W, C) becomes its pictures."""
    for index, picture in enumerate(pictures):
        if isinstance(picture, np.ndarray) and picture.ndim == 4:
            for row, part in enumerate(picture):
                yield f"array[{row}]", part
        else:
            yield str(picture) if isinstance(picture, (str, Path)) else f"picture {index}", picture
