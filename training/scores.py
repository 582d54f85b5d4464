"""`lfdeploy evaluate`: top-1 of a run's networks, or of an artifact through the backend that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.artifact import Artifact, check_resize, input_of, run_of
from lfdeploy.artifact import resolve as resolve_artifact
from lfdeploy.backends import BACKENDS, Session, Source, chosen
from lfdeploy.by_class import by_class
from lfdeploy.chance import against_chance
from lfdeploy.console import Meter, decoding, say
from lfdeploy.data import Split
from lfdeploy.errors import LfdeployError, ParityError
from lfdeploy.models.targets import layout_of
from lfdeploy.run import Run
from lfdeploy.runs import all_runs
from lfdeploy.runs import resolve as resolve_run


def evaluate(
    name: str | None,
    *,
    runs: str = "runs",
    data: str | None = None,
    split: str = "test",
    device: str = "auto",
    backend: str = "auto",
) -> dict[str, Any]:
    """Top-1 and the number of right answers by node; ``name`` is a run, an artifact, or None for the
    newest run.
    """
    run, artifact = _find(name, runs)
    with decoding() as report:
        found = run.data(data, report, need=(split,), alone=True)
    for remark in found.remarks:
        say(f"Note: {remark}.")
    pictures = found.split(split)
    if len(pictures) == 0:
        raise LfdeployError(f"The {split} split of run {run.name} is empty.")
    if backend != "auto" and artifact is None:
        raise LfdeployError(f"--backend {backend} is for artifacts; {run.name} is a run.")
    nodes = _sessions(run, artifact, backend, device)
    fresh = None if found.trained_on is None or not found.trained_on.any() else ~found.trained_on
    rows, fresh_rows, used = {}, {}, ("", "")
    with Meter("Evaluating", len(pictures) * len(nodes), "pictures") as meter:
        for target, (backend, session, most) in nodes.items():
            answers = _answers(session, pictures, most, meter)
            right = answers == pictures.labels
            rows[target] = _row(right) | _measures(answers, pictures, len(run.spec["classes"]))
            if fresh is not None:
                fresh_rows[target] = _row(right[fresh])
            used = (backend, session.device)
    document = {
        "name": artifact.name if artifact else run.name,
        "run": run.name,
        "split": split,
        "images": len(pictures),
        "data": data or run.data_config().data,
        "backend": used[0],
        "device": used[1],
        "nodes": rows,
        "left_out": list(found.bad),
    }
    if found.whose is not None:
        document["whose"] = found.whose
        document["trained_on"] = None if found.trained_on is None else int(found.trained_on.sum())
    if fresh is not None:
        document["not_trained_on"] = {"images": int(fresh.sum()), "nodes": fresh_rows}
    return document


def _sessions(
    run: Run, artifact: Artifact | None, backend: str, device: str
) -> dict[str, tuple[str, Session, int]]:
    """By target: the backend's name, what answers, and how many pictures it takes at once."""
    if artifact is not None:
        artifact.check_file()
        check_resize(artifact)
        name, most = chosen(artifact.manifest, backend), int(artifact.manifest["batch"]["max"])
        session = BACKENDS[name].open(Source(artifact.file, artifact.manifest, run), device)
        return {str(artifact.manifest["target"]): (name, session, most)}
    from training.evaluate import BATCH, pictures_at_once

    nodes = {}
    for target in layout_of(run.spec).targets:
        size = input_of(int(run.spec["image_size"]))
        source = Source(run.weights, {"target": target, "input": size, "batch": {"max": BATCH}}, run)
        session = BACKENDS["pytorch"].open(source, device)
        nodes[target] = ("pytorch", session, pictures_at_once(int(size["height"]), session.device == "cuda"))
    return nodes


def _find(name: str | None, runs: str) -> tuple[Run, Artifact | None]:
    if name is None or any((place / "spec.json").exists() for place in (Path(name), Path(runs) / name)):
        return resolve_run(name, runs).finished(), None
    try:
        artifact = resolve_artifact(name, runs)
    except ParityError:  # it is there, and damaged
        raise
    except LfdeployError:
        known = ", ".join(r.name for r in all_runs(runs)) or "none"
        raise LfdeployError(
            f"'{name}' is neither a run nor an artifact. Runs: {known}. See also: lfdeploy list artifacts"
        ) from None
    return run_of(artifact, None, runs), artifact


def _answers(session: Session, pictures: Split, most: int, meter: Meter) -> NDArray[np.int64]:
    """The top class (N,) of every picture."""
    parts = []
    for images, labels in pictures.batches(most):
        logits, _ = session(np.ascontiguousarray(images))
        parts.append(logits.argmax(1))
        meter.at(meter.done + len(labels))
    return np.concatenate(parts)


def _measures(answers: NDArray[np.int64], pictures: Split, classes: int) -> dict[str, Any]:
    """By class, and against the most frequent class."""
    right = int((answers == pictures.labels).sum())
    return by_class(answers, pictures.labels, classes) | {"chance": against_chance(right, pictures.labels)}


def _row(right: NDArray[np.bool_]) -> dict[str, Any]:
    return {"top1": 100 * float(right.mean()) if len(right) else None, "correct": int(right.sum())}
