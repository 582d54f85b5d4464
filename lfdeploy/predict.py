"""Pictures in, labels and probabilities out, through whichever backend serves the artifact."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lfdeploy.artifact import Artifact, resolve, run_of
from lfdeploy.backends import BACKENDS, Session, Source, chosen
from lfdeploy.confidence import abstains
from lfdeploy.errors import PictureError
from lfdeploy.images import Pixels, decode, fit, fit_all


@dataclass(frozen=True)
class Prediction:
    """One picture's answer: classes by falling probability, remarks about the picture, or why there is none.

    ``abstain``: the artifact is not sure of it; None where its manifest has no threshold.
    """

    source: str
    top: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    decode_ms: float = 0.0
    abstain: bool | None = None

    @property
    def label(self) -> str:
        """The most probable class; empty for a picture that could not be read."""
        return self.top[0][0] if self.top else ""


@dataclass(frozen=True)
class Predictor:
    """An artifact with an open session."""

    artifact: Artifact
    session: Session

    @classmethod
    def open(
        cls, path: str | Path, *, device: str = "auto", backend: str = "auto", run: str | None = None, runs: str = "runs"
    ) -> Predictor:
        """Check the file's hash and open it. ``backend='pytorch'`` opens the run's module in the artifact's place."""
        artifact = resolve(path, runs)
        artifact.check_file()
        name = backend if backend == "pytorch" else chosen(artifact.manifest, backend)
        source = run_of(artifact, run, runs) if name == "pytorch" else None
        session = BACKENDS[name].open(Source(artifact.file, artifact.manifest, source), device)
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

        return in_chunks(self.session, pixels, int(self.artifact.manifest["batch"]["max"]))

    def predict(self, pictures: Sequence[str | Path | bytes | Image.Image] | Pixels, top: int = 5) -> list[Prediction]:
        """Answers for files, bytes, Pillow pictures, or an array uint8 (N, H, W, 3), in their order.

        A picture that cannot be read gives a `Prediction` with ``error``; the others are answered.
        """
        if isinstance(pictures, np.ndarray):
            names, fitted = [f"array[{i}]" for i in range(len(pictures))], list(fit_all(pictures, self.size))
            return self._answer(names, fitted, [((), "", 0.0)] * len(names), top)
        names, pixels, remarks = [], [], []
        for index, picture in enumerate(pictures):
            start = time.perf_counter()
            names.append(str(picture) if isinstance(picture, (str, Path)) else f"picture {index}")
            try:
                if isinstance(picture, Image.Image):
                    pixels.append(fit(picture.convert("RGB"), self.size))
                    notes: tuple[str, ...] = ()
                else:
                    found = decode(picture, self.size)
                    pixels.append(fit(found.image, self.size))
                    notes = found.notes
                remarks.append((notes, "", (time.perf_counter() - start) * 1e3))
            except PictureError as error:
                remarks.append(((), str(error), 0.0))
        return self._answer(names, pixels, remarks, top)

    def _answer(
        self, names: list[str], pixels: list[Pixels], remarks: Sequence[tuple[tuple[str, ...], str, float]], top: int
    ) -> list[Prediction]:
        answers = []
        rows = iter(self.run(np.stack(pixels))[1] if pixels else [])
        for name, (notes, error, spent) in zip(names, remarks, strict=True):
            if error:
                answers.append(Prediction(name, error=error))
                continue
            row = next(rows)
            order = np.argsort(-row, kind="stable")[:top]
            best = tuple((self.labels[i], float(row[i])) for i in order)
            unsure = abstains(self.artifact.manifest, float(row.max()))
            answers.append(Prediction(name, best, notes, decode_ms=spent, abstain=unsure))
        return answers
