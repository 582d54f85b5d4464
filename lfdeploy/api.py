"""What the commands do, as functions: keywords are the flags' names, with ``_`` for ``-``.

Messages and progress go to standard error, as the commands' do; in a notebook they are lines below the cell.
What a user can mend is an `LfdeployError`, whose text says how.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfdeploy.config import ExportConfig, TrainConfig
from lfdeploy.errors import UsageError, choose
from lfdeploy.run import Run

if TYPE_CHECKING:
    from lfdeploy.artifact import Artifact


def train(
    *,
    name: str | None = None,
    runs: str | Path = "runs",
    resume: Run | str | Path | None = None,
    option: Mapping[str, object] | None = None,
    **settings: Any,
) -> Run:
    """Train networks that teach each other, and return the finished run.

    ``option`` holds the method's own settings: ``train(data="photos/", method="lfmkd", option={"attn":
    "none"})``. ``resume`` goes on with an interrupted run under its own settings. All other keywords are
    those of `lfdeploy train`: ``data``, ``arch``, ``peers``, ``epochs``, ``time``, ``weights``, and so on.
    Accuracies in % are in ``run.summary``. Raises `UsageError` for settings that cannot be, and
    `Interrupted` after Ctrl-C, with the state saved.
    """
    from lfdeploy.runs import resolve
    from training import train as run_training

    if resume is not None and (settings or option or name is not None):
        raise UsageError("resume goes on with a run as it is, under its own settings; drop the others.")
    config = _config(TrainConfig, settings | {"option": _pairs(option)})
    return run_training(config, name, runs, None if resume is None else resolve(_path(resume), runs))


def compare(
    methods: str | Sequence[str],
    *,
    seeds: int | Sequence[int] = 3,
    name: str = "compare",
    runs: str | Path = "runs",
    against: str | None = None,
    results: str | Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train methods by one recipe with several seeds, and return means, spreads and paired differences.

    ``methods``: names, each with options of its own after colons, as in ``["lfmkd:attn=none", "ffl",
    "independent"]``. ``seeds``: how many, or which. The document is that of ``lfdeploy compare --json``.
    """
    from training.compare import compare as run_all

    for key in ("method", "option", "seed", "teacher"):
        if key in settings:
            raise UsageError(f"{key} is what is compared; it stands in methods or seeds.")
    names = methods if isinstance(methods, str) else ",".join(methods)
    if isinstance(seeds, (str, float)) or not isinstance(seeds, (int, Iterable)):
        raise UsageError(f"seeds is {seeds!r}; it is how many, as in 3, or which, as in [5, 6, 7].")
    numbers = str(seeds) if isinstance(seeds, int) else ",".join(map(str, seeds)) + ","
    return run_all(_config(TrainConfig, settings), names, numbers, name, runs, against, results)


def evaluate(
    run: Run | str | Path | None = None,
    *,
    data: str | Path | None = None,
    split: str = "test",
    backend: str = "auto",
    device: str = "auto",
    runs: str | Path = "runs",
) -> dict[str, Any]:
    """Top-1, macro-F1 and recall by class, in %, of a run's networks or of an artifact through its own
    backend; the document is that of ``lfdeploy evaluate --json``.
    """
    from training.scores import evaluate as score

    choose("split", split, ["test", "val", "train"])
    name = None if run is None else str(_path(run))
    return score(name, runs=str(runs), data=_value("data", data), split=split, backend=backend, device=device)


def export(
    run: Run | str | Path | None = None,
    *,
    data: str | Path | None = None,
    runs: str | Path = "runs",
    **settings: Any,
) -> list[Artifact]:
    """Export from a run (default: the newest), and return what was published, one artifact for each target
    and precision.

    Keywords are those of `lfdeploy export`: ``peer=0``, ``fused=True``, ``format="onnx"``,
    ``precision="fp32,int8"``, and so on. Raises `ParityError` where the file does not answer as the PyTorch
    module does; nothing is published then.
    """
    from export import export as make
    from lfdeploy.runs import resolve

    config = _config(ExportConfig, settings)
    return make(config, resolve(_path(run), runs).finished(), _value("data", data))


def serve(
    *artifacts: Artifact | str | Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    runs: str | Path = "runs",
    root_path: str = "",
    token_file: str | Path = "",
    title: str = "",
    log: bool = False,
    workers: int = 1,
) -> None:
    """Open a web page and an API that classify with these artifacts (default: those of the newest run), until
    it is interrupted.
    """
    from serve import serve as run_page

    places = [_path(artifact) for artifact in artifacts]
    run_page([place for place in places if place is not None], host=host, port=port, device=device,
             runs=runs, root_path=root_path, token_file=token_file, title=title, log=log,
             workers=workers)  # fmt: skip


def _path(named: Any) -> str | Path | None:
    """Where a run or an artifact is, or what it is called."""
    place: str | Path | None = getattr(named, "path", named)
    return place


def _pairs(option: Mapping[str, object] | None) -> tuple[tuple[str, str], ...]:
    if not isinstance(option, Mapping | None):
        raise UsageError(f"option is {option!r}; it must be a dictionary, like {{'attn': 'none'}}.")

    def text(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return tuple((key, text(value)) for key, value in (option or {}).items())


def _config(kind: type[Any], settings: Mapping[str, Any]) -> Any:
    """The settings as a config. Raises `UsageError` with the nearest guess for one that there is not."""
    known = {field.name: field for field in fields(kind)}
    for key, value in settings.items():
        choose("keyword", key, list(known))
        if isinstance(value, str) and not value.strip() and known[key].default != "":
            raise UsageError(f"{key} is empty; give it a value, or leave it out.")
    alone = {key: known[key].metadata["alone"] for key, value in settings.items() if value is True}
    return kind(**{key: alone.get(key) or _value(key, value) for key, value in settings.items()})


def _value(key: str, value: Any) -> Any:
    """A value as its flag would have it: paths and lists as text, minutes as seconds, NumPy's numbers as
    Python's.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, (list, tuple)) and key != "option":
        return ",".join(map(str, value))
    if key == "data" and isinstance(value, Path):
        from lfdeploy.sources import as_folder

        return as_folder(str(value))
    if key == "time" and isinstance(value, (int, float)):
        return f"{value:.0f}s"
    return (
        str(value)
        if isinstance(value, Path) or (key in ("threads", "freeze") and value is not None)
        else value
    )
