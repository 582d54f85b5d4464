"""Which pictures a command looks at: the run's own, split as its record says, or others, which are judged whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lfdeploy.config import DataConfig
from lfdeploy.data import Data, Fault, Report, decode_all, load, name_of
from lfdeploy.errors import LfdeployError
from lfdeploy.names import counted, some
from lfdeploy.numbers import remarks_on, unread
from lfdeploy.recall import Listing, listed, match, recalled
from lfdeploy.record import NO_PIXELS, SPLITS, Record
from lfdeploy.sources import Source, read
from lfdeploy.splits import Split, digest_of

if TYPE_CHECKING:
    from lfdeploy.run import Run


def pictures_of(run: Run, other: str | None, report: Report, need: Sequence[str], alone: bool = False) -> Data:
    """The run's own pictures, or with ``other`` those of another place, with what is to be said about them in ``remarks``.

    ``need``: the splits that are decoded now; the first is the one to be judged. Others stay on disk until asked for.
    ``alone``: with others' pictures the run's own train and val are not wanted, and come empty.
    """
    own = run.data_config()
    record = run.record()
    if other is None and _is_path(own.data) and not Path(own.data).exists():
        raise LfdeployError(f"The run's data are no longer at {own.data}. Say where they are with --data.")
    if record is None:
        return _without_record(run, other, report)
    config = own if other is None else run.data_config(other)
    source = read(config.data, config.data_root, judged=True)
    if other is None or _same_place(own.data, config.data):
        return _own(run, record, config, source, report, need)
    listing = listed(source, report)
    _, changes = match(record, listing, run.spec["classes"], int(run.spec["image_size"]))
    if not changes.in_short():
        return _own(run, record, config, source, report, need, listing)
    parts = {} if alone else _others(run, record, listing)
    return _judged(run, record, config, source, report, need[0], parts)


def resumed(run: Run, report: Report) -> Data:
    """The pictures of a run that goes on, all splits decoded; raises, naming pictures, where they are not as they were."""
    record, config = run.record(), run.data_config()
    if record is None:
        data = load(config, report, together=False)
    else:
        source = read(config.data, config.data_root, judged=True)
        listing = listed(source, report)
        _, changes = match(record, listing, run.spec["classes"], int(run.spec["image_size"]))
        if changes.in_short():
            raise LfdeployError(
                f"The pictures in {config.data} have changed since run {run.name} began: {changes.in_short()}. "
                "Put them back to resume, or train a new run."
            )
        data = _own(run, record, config, source, report, SPLITS, listing)
    if run.spec["data_fingerprint"] != data.fingerprint:
        raise LfdeployError(f"The pictures in {config.data} have changed since run {run.name} began; train a new run.")
    return data


def _is_path(data: str) -> bool:
    return "/" in data or data.endswith((".npz", ".csv"))


def _same_place(one: str, other: str) -> bool:
    return one == other or (Path(one).exists() and Path(other).exists() and Path(one).samefile(other))


def _without_record(run: Run, other: str | None, report: Report) -> Data:
    """A run of an older lfdeploy: its pictures are split again by its seed."""
    config = run.data_config(other)
    data = load(config, report, together=False)
    _check_classes(data.classes, run, config.data, exact=True)
    anew = f"run {run.name} has no record of its pictures ({config.data} is split anew by its seed)"
    if data.fingerprint != run.spec["data_fingerprint"]:
        anew += "; they are not those it was trained on, or were changed: some of test may have been trained on"
    return dataclasses.replace(data, remarks=(anew,), whose=None if other is None else data.name)


def _check_classes(classes: Sequence[str], run: Run, place: str, exact: bool = False) -> None:
    """Raise for classes that are not the run's: for any the run has not, and with ``exact`` for any that lack too."""
    known = run.spec["classes"]
    strange = [label for label in classes if label not in known]
    lacking = [label for label in known if label not in classes]
    if strange or (exact and (lacking or list(classes) != known)):
        what = f"the class '{strange[0]}', which run {run.name} has not" if strange else "other classes than the run"
        raise LfdeployError(
            f"{place} has {what} (it has {some(known, 8)}). Name the folders as the run's classes, or choose other pictures."
        )


def _own(
    run: Run, record: Record, config: DataConfig, source: Source, report: Report, need: Sequence[str], listing: Listing | None = None
) -> Data:
    """The run's own pictures, at their place or moved."""
    spec, place = run.spec, config.data
    classes, size = spec["classes"], int(spec["image_size"])
    lacking = [label for label in classes if label not in source.classes]
    if lacking:
        raise LfdeployError(
            f"{place} has no longer the class '{lacking[0]}' of run {run.name}. Put it back, or name other pictures with --data."
        )
    listing = listing or listed(source, report)
    numbers, changes = match(record, listing, classes, size)
    splits, other = recalled(record, listing, numbers, size, need, report)
    remarks = []
    if other:
        splits, other = recalled(record, listing, numbers, size, SPLITS, report)
        remarks.append(
            f"{counted(other, 'picture')} of {place} decode to other pixels than when run {run.name} was trained: was Pillow changed?"
        )
    strange = [label for label in source.classes if label not in classes]
    if strange:
        remarks.append(f"{place} has {counted(len(strange), 'class')} that run {run.name} does not know ({some(strange)})")
    remarks += changes.sentences(place, run.name)
    if changes:
        counts = ", ".join(f"{len(splits[name]):,} of {len(record.splits[name]):,} {name}" for name in SPLITS)
        remarks.append(f"{place} has changed: pictures keep the splits of run {run.name}, and what was trained on is not judged ({counts})")
    if not _same_place(run.data_config().data, place):
        remarks.append(f"{place} holds the pictures of run {run.name}: they are split as then, and what was trained on is not judged")
    if not len(splits[need[0]]) and len(record.splits[need[0]]):
        raise LfdeployError(f"No picture of the {need[0]} split of run {run.name} is left in {place} ({changes.in_short()}).")
    bad = [path for path, file in zip(listing.paths, listing.files.tolist(), strict=True) if file in record.bad_files]
    return Data(
        name=name_of(place), classes=tuple(classes), image_size=size, remarks=tuple(remarks),
        train=splits["train"], val=splits["val"], test=splits["test"], epochs=source.epochs, arch=source.arch, flip=source.flip,
        bad=tuple(f"{path} could not be read when run {run.name} began." for path in bad), bad_files=tuple(record.bad_files),
    )  # fmt: skip


def _judged(run: Run, record: Record, config: DataConfig, source: Source, report: Report, asked: str, parts: dict[str, Split]) -> Data:
    """Other pictures, all of them, in the place of the split that is asked for; ``parts`` are the run's own splits."""
    classes, size, place = run.spec["classes"], int(run.spec["image_size"]), config.data
    _check_classes(source.classes, run, place)
    name = asked if len(source.splits) > 1 else next(iter(source.splits))
    if name not in source.splits:
        there = " and ".join(source.splits)
        raise LfdeployError(f"{place} has no {asked} split; it has {there}. Name the folder of the pictures to be judged.")
    faults: list[Fault] = []
    chosen = dataclasses.replace(source, splits={name: source.splits[name]})
    found = decode_all(chosen, size, faults, report)[name]
    labels = np.array([classes.index(label) for label in source.classes], np.int64)[found.labels]
    split = dataclasses.replace(found, labels=labels)
    split = split.take(split.by_content())
    if not len(split):
        raise LfdeployError(f"{place} holds no pictures to be judged{''.join(f'. {remark}' for remark in source.remarks[:2])}.")
    trained_on = np.isin(split.digests, record.splits["train"].digests)
    remarks = [*source.remarks, *unread(faults)]
    which = "" if len(source.splits) == 1 else f" (its {name} split)"
    seen = (
        f"{counted(int(trained_on.sum()), 'picture')} of them run {run.name} was trained on"
        if trained_on.any()
        else "none of them trained on"
    )
    remarks.append(f"all {counted(len(split), 'picture')} of {place}{which} are judged, {seen}")
    remarks += remarks_on({asked: split}, tuple(classes))
    parts = {part: _empty() for part in SPLITS} | parts | {asked: split}
    return Data(
        name=name_of(place), classes=tuple(classes), image_size=size, remarks=tuple(remarks),
        train=parts["train"], val=parts["val"], test=parts["test"], epochs=source.epochs, arch=source.arch, flip=source.flip,
        bad=tuple(fault.message for fault in faults), whose=name_of(place), trained_on=trained_on,
    )  # fmt: skip


def _empty() -> Split:
    labels, digests = np.zeros(0, np.int64), np.zeros(0, "S16")
    return Split(NO_PIXELS, labels, digest_of(digests, labels))


def _others(run: Run, record: Record, listing: Listing) -> dict[str, Split]:
    """The run's own splits: at their place, or where that is gone as far as the pictures of ``listing`` are the run's."""
    config, size = run.data_config(), int(run.spec["image_size"])
    if not _is_path(config.data) or Path(config.data).exists():
        listing = listed(read(config.data, config.data_root, judged=True))
    numbers, _ = match(record, listing, run.spec["classes"], size)
    return recalled(record, listing, numbers, size, ())[0]
