"""Which pictures a command looks at: the run's own, split as its record says, or others, judged whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lfdeploy.config import DataConfig
from lfdeploy.data import Data, Fault, Report, decode_all, load, name_of, part_of
from lfdeploy.data_summary import remarks_on, unread
from lfdeploy.errors import LfdeployError
from lfdeploy.labels import counted, some
from lfdeploy.pixel_cache import PixelCache, known_folder
from lfdeploy.recall import Changes, Index, Listing, listed, match, recalled
from lfdeploy.recorded_splits import NO_PIXELS, SPLITS, Record
from lfdeploy.sources import DATASETS, Source, check_meaning, read
from lfdeploy.split_arrays import Split, digest_of

if TYPE_CHECKING:
    from lfdeploy.run import Run


def pictures_of(
    run: Run,
    other: str | None,
    report: Report,
    need: Sequence[str],
    alone: bool = False,
) -> Data:
    """The run's own pictures, or with ``other`` those of another place; ``remarks`` says what is odd.

    ``need``: the splits that are decoded now, the one to be judged first; others stay on disk until used.
    ``alone``: with others' pictures the run's own train and val are not wanted, and come empty.
    """
    own = run.data_config()
    record = run.record()
    if other is not None:
        check_meaning(other)
    if other is None and _is_gone(own.data):
        raise LfdeployError(f"The run's data are no longer at {own.data}. Say where they are with --data.")
    if record is None:
        return _without_record(run, other, report)
    config = own if other is None else run.data_config(other)
    source = read(config.data, config.data_root, judged=True)
    files = sum(len(labels) for _, labels in source.splits.values())
    total = files + sum(len(record.splits[name]) for name in need)
    listing = listed(source, part_of(report, 0, total))
    numbers, changes = match(record, listing, run.spec["classes"], int(run.spec["image_size"]))
    if other is None or _same_place(own.data, config.data) or not changes.in_short():
        _check_own_classes(source, run, config.data)
        splits, redecoded = _recalled(run, record, listing, numbers, need, part_of(report, files, total))
        if need and not len(splits[need[0]]) and len(record.splits[need[0]]):
            gone = f"No picture of the {need[0]} split of run {run.name} is left in {config.data}"
            raise LfdeployError(f"{gone} ({changes.in_short()}).")
        remarks = _redecoded(redecoded, run) + _told(
            run, record, config.data, source, splits, changes, other is not None
        )  # fmt: skip
        found = _data(run, config, source, splits, remarks, _unread_then(run, record, listing))
        return dataclasses.replace(found, redecoded=redecoded)
    parts = {} if alone else _others(run, record, listing)
    asked = need[0] if need else "test"
    return _judged(run, record, config, source, part_of(report, files, 2 * files), asked, parts)


def resumed(run: Run, report: Report) -> Data:
    """The pictures of a run that goes on, decoded; raises, naming pictures, where they are not as then."""
    record, config = run.record(), run.data_config()
    since = f"The pictures in {config.data} have changed since run {run.name} began"
    if _is_gone(config.data):
        raise LfdeployError(f"The run's data are no longer at {config.data}. Put them back to resume it.")
    if record is None:
        data = load(config, report, together=False)
    else:
        listing = listed(read(config.data, config.data_root, judged=True))
        numbers, changes = match(record, listing, run.spec["classes"], int(run.spec["image_size"]))
        if changes.in_short():
            raise LfdeployError(f"{since}: {changes.in_short()}. Undo that, or train a new run.")
        splits, redecoded = _recalled(run, record, listing, numbers, SPLITS, report)
        remarks = _redecoded(redecoded, run)
        data = _data(run, config, listing.source, splits, remarks, _unread_then(run, record, listing))
    if run.spec["data_fingerprint"] != data.fingerprint:
        raise LfdeployError(f"{since}; train a new run.")
    return data


def check_data(run: Run, other: str | None) -> None:
    """Raise where the pictures of a run, or the ``other`` ones named in their place, are nowhere."""
    own = run.data_config().data
    if other is None and _is_gone(own):
        raise LfdeployError(f"The run's data are no longer at {own}. Say where they are with --data.")
    if other is not None and other not in DATASETS and not Path(other).is_dir():
        read(other, None, judged=True)


def _is_gone(data: str) -> bool:
    return ("/" in data or data.endswith((".npz", ".csv"))) and not Path(data).exists()


def _same_place(one: str, other: str) -> bool:
    return one == other or (Path(one).exists() and Path(other).exists() and Path(one).samefile(other))


def _without_record(run: Run, other: str | None, report: Report) -> Data:
    """A run of an older lfdeploy: its pictures are split again by its seed."""
    config = run.data_config(other)
    data = load(config, report, together=False)
    if list(data.classes) != run.spec["classes"]:
        _check_classes(data.classes, run, config.data)
        raise LfdeployError(f"{config.data} has other classes than run {run.name} ({some(data.classes, 8)}).")
    anew = f"run {run.name} has no record of its pictures: {config.data} is split anew by its seed"
    if data.fingerprint != run.spec["data_fingerprint"]:
        anew += ". They are not those it was trained on, or changed: some of test may have been trained on"
    return dataclasses.replace(data, remarks=(anew,), whose=None if other is None else data.name)


def _check_classes(classes: Sequence[str], run: Run, place: str) -> None:
    """Raise for a class that the run has not."""
    known = run.spec["classes"]
    for label in classes:
        if label not in known:
            strange = f"{place} has the class '{label}', which run {run.name} has not"
            raise LfdeployError(f"{strange} (it has {some(known, 8)}). Rename it, or choose other pictures.")


def _check_own_classes(source: Source, run: Run, place: str) -> None:
    """Raise for a class of the run that has gone."""
    for label in run.spec["classes"]:
        if label not in source.classes:
            gone = f"{place} has no longer the class '{label}' of run {run.name}"
            raise LfdeployError(f"{gone}. Put it back, or name other pictures with --data.")


def _recalled(
    run: Run,
    record: Record,
    listing: Listing,
    numbers: dict[str, Index],
    need: Sequence[str],
    report: Report,
) -> tuple[dict[str, Split], int]:
    """The run's splits, and of how many pictures the same bytes decode to other pixels now."""
    size = int(run.spec["image_size"])
    cache = _cache(run)
    splits, other = recalled(record, listing, numbers, size, need, report, cache)
    if other:
        splits, other = recalled(record, listing, numbers, size, SPLITS, cache=cache)
    return splits, other


def _cache(run: Run) -> PixelCache | None:
    """Where the run's decoded pictures may be kept."""
    folder = known_folder(run.data_config().cache, run.path.parent)
    return None if folder is None else PixelCache(folder, int(run.spec["image_size"]))


def _redecoded(count: int, run: Run) -> list[str]:
    if not count:
        return []
    return [
        f"{counted(count, 'picture')} decode{'s' * (count == 1)} to other pixels than when run {run.name} "
        "was trained: was Pillow changed?"
    ]


def _told(
    run: Run,
    record: Record,
    place: str,
    source: Source,
    splits: dict[str, Split],
    changes: Changes,
    named: bool,
) -> list[str]:
    """What happened to the run's own pictures since it began; ``named``: somebody asked for that place."""
    remarks = []
    strange = [label for label in source.classes if label not in run.spec["classes"]]
    if strange:
        classes = counted(len(strange), "class")
        remarks.append(f"{place} has {classes} that run {run.name} does not know ({some(strange)})")
    remarks += changes.sentences(place, run.name)
    kept = f"pictures keep the splits of run {run.name}, and what was trained on is not judged"
    if changes:
        counts = [f"{len(splits[name]):,} of {len(record.splits[name]):,} {name}" for name in SPLITS]
        remarks.append(f"{place} has changed: {kept} ({', '.join(counts)})")
    elif named:
        remarks.append(f"{place} holds the pictures of run {run.name}: {kept}")
    return remarks


def _unread_then(run: Run, record: Record, listing: Listing) -> tuple[str, ...]:
    """Files that could not be read when the run began, and are still there."""
    rows = zip(listing.paths, listing.files.tolist(), strict=True)
    bad = [path for path, file in rows if file in record.bad_files]
    return tuple(f"{path} could not be read when run {run.name} began." for path in bad)


def _data(
    run: Run,
    config: DataConfig,
    source: Source,
    splits: dict[str, Split],
    remarks: Sequence[str],
    bad: tuple[str, ...],
) -> Data:
    return Data(
        name=name_of(config.data),
        classes=tuple(run.spec["classes"]),
        image_size=int(run.spec["image_size"]),
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        bad=bad,
        remarks=tuple(remarks),
        epochs=source.epochs,
        arch=source.arch,
        flip=source.flip,
    )


def _judged(
    run: Run,
    record: Record,
    config: DataConfig,
    source: Source,
    report: Report,
    asked: str,
    own: dict[str, Split],
) -> Data:
    """Other pictures, all of them, in the place of the split asked for; ``own``: the run's own splits."""
    classes, size, place = run.spec["classes"], int(run.spec["image_size"]), config.data
    _check_classes(source.classes, run, place)
    name = asked if len(source.splits) > 1 else next(iter(source.splits))
    if name not in source.splits:
        there = " and ".join(source.splits)
        lacks = f"{place} has no {asked} split; it has {there}"
        raise LfdeployError(f"{lacks}. Name the folder of the pictures to be judged.")
    faults: list[Fault] = []
    chosen = dataclasses.replace(source, splits={name: source.splits[name]})
    found = decode_all(chosen, size, faults, report, _cache(run))[name]
    labels = np.array([classes.index(label) for label in source.classes], np.int64)[found.labels]
    split = dataclasses.replace(found, labels=labels)
    split = split.take(split.by_content())
    remarks = [*source.remarks, *unread(faults)]
    if not len(split):
        why = "".join(f". {remark}" for remark in remarks[:2])
        raise LfdeployError(f"{place} holds no pictures to be judged{why}.")
    trained_on = np.isin(split.digests, record.splits["train"].digests)
    known = f"{int(trained_on.sum()) or 'none'} of them"
    others = sum(len(labels) for part, (_, labels) in source.splits.items() if part != name)
    which = (
        "" if len(source.splits) == 1 else f" (its {name} split; {others:,} of its other splits are left out)"
    )
    judged = "the one picture" if len(split) == 1 else f"all {len(split):,} pictures"
    verb = "is" if len(split) == 1 else "are"
    remarks.append(f"{judged} of {place}{which} {verb} judged; run {run.name} was trained on {known}")
    remarks += remarks_on({asked: split}, tuple(classes))
    splits = {part: _empty() for part in SPLITS} | own | {asked: split}
    data = _data(run, config, source, splits, remarks, tuple(fault.message for fault in faults))
    return dataclasses.replace(data, whose=name_of(place), trained_on=trained_on)


def _empty() -> Split:
    labels, digests = np.zeros(0, np.int64), np.zeros(0, "S16")
    return Split(NO_PIXELS, labels, digest_of(digests, labels), digests)


def _others(run: Run, record: Record, listing: Listing) -> dict[str, Split]:
    """The run's own splits: at their place, or where that is gone as far as ``listing`` has its pictures."""
    config, size = run.data_config(), int(run.spec["image_size"])
    if not _is_gone(config.data):
        listing = listed(read(config.data, config.data_root, judged=True))
    numbers, _ = match(record, listing, run.spec["classes"], size)
    return recalled(record, listing, numbers, size, ())[0]
