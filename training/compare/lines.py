"""The runs of a comparison, trained or found, each as one line that says all that a comparison needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lfdeploy.config import TrainConfig
from lfdeploy.console import say
from lfdeploy.data import Data, name_of
from lfdeploy.errors import Interrupted, LfdeployError
from lfdeploy.models import canonical
from lfdeploy.models.targets import FUSED, layout_of
from lfdeploy.run import Run, config_json, sha256, typed
from lfdeploy.sources import DATASETS
from training.compare.entries import OWN, Entry
from training.loop import train
from training.recipes import resolved
from training.setup import pictures_of

Line = dict[str, Any]
LARGEST = 2**31
ABOUT = ("name", "classes", "train", "val", "test", "fingerprint", "pictures")
ANOTHER = "choose another --name, and another --results if there is one."

#: Settings that are an entry's own, or say where things lie and not what they are.
APART = (
    "method", "option", "seed", "data", "data_root", "cache", "csv", "tensorboard", "strict", "threads",
    "device", *OWN,
)  # fmt: skip


def collected(
    config: TrainConfig, entries: Sequence[Entry], seeds: Sequence[int], home: Path, file: Path
) -> tuple[list[Line], list[str]]:
    """A line for every entry and seed: from the file, from a finished run, or of a training now; and
    sentences about those that diverged, which have none.
    """
    config = replace(config, weights=_found(config.weights, home.parent))
    wanted = [(entry, seed) for seed in seeds for entry in entries]
    kept = {(line["label"], line["seed"]): line for line in read(file)}
    for entry, seed in wanted:
        if line := kept.get((entry.label, seed)):
            what = f"{file} has {entry.label}, seed {seed},"
            _check(config, line["settings"], line["data"]["name"], line["data"]["train"], what)
            _check_networks(entry.config(config, seed), line["archs"], what)
    _check_pictures(config, wanted, kept, home, file)
    missing = [pair for pair in wanted if (pair[0].label, pair[1]) not in kept]
    diverged = []
    for number, (entry, seed) in enumerate(missing, 1):
        say(f"[{number}/{len(missing)}] {entry.label}, seed {seed}")
        mine = entry.config(config, seed)
        mine = replace(mine, teacher=_found(mine.teacher, home.parent))
        run = _run(mine, f"{entry.stem}-s{seed}", home)
        if run.diverged():
            diverged.append(f"{entry.label}, seed {seed}, is left out. {run.diverged()}")
            continue
        line = line_of(run, entry.label)
        line["settings"]["time"] = config.time
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        kept[entry.label, seed] = line
    found = [kept[entry.label, seed] for entry, seed in wanted if (entry.label, seed) in kept]
    return found, diverged


def _check_pictures(
    config: TrainConfig, wanted: Sequence[tuple[Entry, int]], kept: Mapping[tuple[str, int], Line],
    home: Path, file: Path,
) -> None:  # fmt: skip
    """Raise where what is taken over was measured on other pictures than there are now."""
    then: list[tuple[str, TrainConfig, Mapping[str, Any], Mapping[str, Any]]] = []
    for entry, seed in wanted:
        run, mine = Run(home / f"{entry.stem}-s{seed}"), entry.config(config, seed)
        if line := kept.get((entry.label, seed)):
            what = f"{file} has {entry.label}, seed {seed},"
            then.append((what, mine, line["data"], line["settings"]))
        elif (run.path / "summary.json").is_file():
            about = run.read("summary.json")["data"], run.read("config.json")
            then.append((f"Run {typed(run.path)} was trained", mine, *about))
    then = [row for row in then if row[2].get("pictures")]
    if then and config.data not in DATASETS and not Path(config.data).exists():
        say(f"Note: {config.data} is not here, so it is not known whether these figures are of it.")
        return
    now: dict[str | None, Data] = {}  # networks may want other sizes
    for what, mine, data, settings in then:
        if mine.arch not in now:
            now[mine.arch] = pictures_of(mine, home.parent)
        found = now[mine.arch]
        if data["pictures"] != found.pictures:
            counts = [f"{data[split]:,} to {split}" for split in ("train", "test")]
            other = [f"{len(found.split(split)):,} to {split}" for split in ("train", "test")]
            raise LfdeployError(
                f"{what} on other pictures ({', '.join(counts)}) than {config.data} holds now "
                f"({', '.join(other)}): {ANOTHER}"
            )
        _check_length(mine, settings, found, what)


def _check_length(config: TrainConfig, settings: Mapping[str, Any], data: Data, what: str) -> None:
    """Raise where nothing says how long to train, and a run was not as long as others would be by that."""
    if config.epochs or config.time:
        return
    usual, epochs = resolved(config, data, 1).epochs, settings["epochs"]
    if settings.get("time"):
        raise LfdeployError(f"{what} with --time {settings['time']}: add that flag, or {ANOTHER}")
    if epochs != usual:
        raise LfdeployError(
            f"{what} with --epochs {epochs}; without that flag it would be {usual}. Add it, or {ANOTHER}"
        )


def _found(names: str | None, runs: Path) -> str | None:
    """Names of runs as paths to them, so that they are found from the directory of the comparison."""
    if names is None:
        return None
    places = [
        str(runs / name) if (runs / name / "config.json").is_file() else name for name in names.split(",")
    ]
    return ",".join(places)


def read(file: Path) -> list[Line]:
    """The lines of a file, none where it is not there. Raises `LfdeployError` for what is none."""
    if not file.exists():
        return []
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            line["label"], line["seed"], line["settings"], line["data"]["name"], line["test_last"]["peers"]
        except (ValueError, KeyError, TypeError):
            raise LfdeployError(
                f"{file}, line {number}: that is no line of a comparison. Take it out."
            ) from None
        lines.append(line)
    return lines


def _run(config: TrainConfig, name: str, home: Path) -> Run:
    """The finished run: found, gone on with, or trained now."""
    run = Run(home / name)
    try:
        if not (run.path / "config.json").is_file():
            return train(config, name, home)
        values = run.read("config.json")
        record = run.record()
        pictures = len(record.splits["train"].labels) if record else LARGEST
        _check(config, values, name_of(values["data"]), pictures, f"Run {typed(run.path)} was begun")
        for key in ("method", "option", *OWN):
            asked = json.loads(json.dumps(config_json(config)[key]))
            if asked not in (None, values[key]):
                raise LfdeployError(
                    f"Run {typed(run.path)} is of {key} {values[key]}; choose another --name."
                )
        if (run.path / "summary.json").exists() or run.diverged():
            return run
        return train(config, resume=run)
    except Interrupted:
        raise Interrupted("Interrupted; all is kept. Go on with the same command.") from None
    except LfdeployError:
        if run.path.is_dir() and run.diverged():
            return run
        raise


def _check(config: TrainConfig, values: Mapping[str, Any], data: str, pictures: int, what: str) -> None:
    """Raise where a run was not trained as is asked for now; what is not asked for is the recipe's.

    ``pictures``: how many it was trained on, and no batch is larger.
    """
    if name_of(config.data) != data:
        raise LfdeployError(f"{what} with --data {data}, not {name_of(config.data)}: {ANOTHER}")
    asked = config_json(config)
    if asked["batch_size"]:
        asked["batch_size"] = min(asked["batch_size"], pictures)
    for field in fields(TrainConfig):
        key, there = field.name, values.get(field.name, field.default)
        if key in APART or asked[key] is None or (key == "time" and there is None):
            continue
        same = asked[key] == there or (key == "weights" and _weights(Path(asked[key])) == there)
        if not same:
            flag = f"--{key.replace('_', '-')}"
            raise LfdeployError(f"{what} with {flag} {there}, not {asked[key]}: {ANOTHER}")


def _check_networks(config: TrainConfig, archs: Sequence[str], what: str) -> None:
    """Raise where a line is of other networks than are asked for."""
    asked = {canonical(arch) for arch in config.arch.split(",")} if config.arch else set(archs)
    if asked != set(archs):
        raise LfdeployError(f"{what} with --arch {','.join(archs)}, not {config.arch}: {ANOTHER}")
    if config.peers and config.peers != len(archs):
        raise LfdeployError(f"{what} with --peers {len(archs)}, not {config.peers}: {ANOTHER}")


def line_of(run: Run, label: str) -> Line:
    """What a comparison keeps of a finished run. No path is in it: such lines are for others to read."""
    summary, config, layout = run.read("summary.json"), run.read("config.json"), layout_of(run.spec)
    settings = {key: value for key, value in config.items() if key not in APART}
    if settings.get("weights"):
        settings["weights"] = _weights(Path(settings["weights"]))
    last, data = summary["test_last"], summary["data"]
    return {
        "label": label,
        "method": config["method"],
        "options": dict(config["option"]),
        "seed": config["seed"],
        "archs": summary["archs"],
        "settings": settings,
        "data": {key: data.get(key) for key in ABOUT},
        "test_last": {
            "peers": last["peers"],
            "fused": last["fused"],
            "ensemble": last["ensemble"],
            "top1": last["top1"],
        },
        "kept_epoch": summary["kept_epoch"],
        "test_kept": summary["test"]["top1"],
        "ships": list(layout.ships),
        "fused_target": next((name for name, row in layout.targets.items() if row.kind == FUSED), None),
        "parameters": summary["parameters"],
        "seconds": summary["seconds"],
        "device": summary["device"],
        "gpu": summary.get("gpu"),
        "cpu": summary.get("cpu"),
        "threads": summary["threads"],
        "precision": summary["precision"],
        "versions": {key: summary["versions"].get(key) for key in ("lfdeploy", "torch", "python")},
    }  # fmt: skip


def _weights(place: Path) -> str:
    """What weights were begun with: their name, and the beginning of the hash of their file."""
    file = place / "model.safetensors" if place.is_dir() else place
    return f"{place.name} {sha256(file)[:12]}" if file.is_file() else place.name
