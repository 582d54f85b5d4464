"""Folders of pictures: what they mean is said, and every file that is left out is counted with its reason.

``left_out`` maps a reason, as a sentence with the place ``{}`` for how many, to the paths left out for it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lfdeploy.errors import LfdeployError
from lfdeploy.images import SUFFIXES, Pixels
from lfdeploy.labels import check_labels, clean, counted, label_of, some, split_of
from lfdeploy.sources import Labels, Source

MORE_SUFFIXES = (".jfif", ".pjpeg", ".pjp", ".apng", ".dib", ".avifs")  # other names of formats that are read
NOT_READ = {
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".psd", ".svg", ".jp2", ".j2k", ".jpx", ".jxl", ".tga", ".ico",
    ".pcx", ".xpm", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raw", ".exr", ".hdr", ".dcm",
    ".fits", ".pdf", ".eps", ".mpo",
}  # fmt: skip
JUNK = {
    "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx", "__pycache__",
    "lost+found", "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",
    "icon\r",
}  # fmt: skip
LeftOut = dict[str, set[Path]]

HIDDEN = "hidden and system files or folders skipped: {}"
DANGLING = "{} left out: links to what is not there"
CIRCLE = "{} left out: links back to a folder that was read already"
DENIED = "{} left out: no permission to read"
SPECIAL = "{} left out: not a regular file"
LOOSE = "{} left out: beside the class folders, not in one"
WITHOUT = "{} left out: no pictures inside"


def folder(path: Path, judged: bool = False) -> Source:
    """Split folders of class folders, or one level of class folders.

    ``judged``: pictures to be judged, not trained on: no train folder is needed. Raises `LfdeployError` where
    the layout has more than one meaning, or none.
    """
    if not os.access(path, os.R_OK | os.X_OK):
        raise LfdeployError(f"{path} may not be read. Change its permissions: chmod u+rx {path}")
    left_out: LeftOut = {}
    remarks: list[str] = []
    parts = _parts(path, judged, left_out, remarks)
    tops = {split: _class_folders(split, top, path, left_out, remarks) for split, top in parts.items()}
    first = "train" if "train" in tops else next(iter(tops))
    classes = _classes(tops, first, judged)
    spelled = {label.casefold(): number for number, label in enumerate(classes)}
    splits: dict[str, tuple[Pixels | list[Path], Labels]] = {}
    for split, folders in tops.items():
        files: list[Path] = []
        labels: list[int] = []
        for place in folders:
            label = label_of(place.name, str(parts[split]))
            number = spelled[label.casefold()]
            if label != classes[number]:
                remarks.append(f"{split}: the folder {label}/ is taken as the class '{classes[number]}'")
            below = list(pictures_below(place, left_out))
            files += below
            labels += [number] * len(below)
        splits[split] = (files, np.array(labels, dtype=np.int64))
    remarks += sentences(left_out, path)
    places = {split: shown(top, path) for split, top in parts.items() if top != path}
    return Source(classes, splits, remarks=tuple(remarks), root=path, places=places)


def _parts(path: Path, judged: bool, left_out: LeftOut, remarks: list[str]) -> dict[str, Path]:
    """The folder of each split; one of class folders is ``train``, of which the other splits are held out."""
    folders, files = _entries(path, left_out)
    parts: dict[str, Path] = {}
    others = [child for child in folders if split_of(child.name) is None]
    for child in folders:
        split = split_of(child.name)
        if split in parts:
            names = f"{parts[split].name}/ and {child.name}/"
            raise LfdeployError(f"{path}: {names} both mean the {split} split. Merge them, or rename one.")
        if split is not None:
            parts[split] = child
    if parts and others:
        _check_others(parts, others, path, left_out)
    if not parts and len(others) == 1:
        inner = _wrapped(path, others[0], judged)
        if inner is not None:
            remarks.append(f"{path} holds one folder, {inner.name}/, with splits in it: it is the data set")
            return _parts(inner, judged, left_out, remarks)
    if not parts:
        if not others:
            loose = f", but {counted(len(_by_name(files)), 'picture')}" if _by_name(files) else ""
            raise LfdeployError(
                f"{path} has no class folders{loose}. Put each class's pictures in a folder of its own: "
                + ", ".join(f"{path}/{example}." for example in ("cat/1.jpg", "dog/2.jpg"))
            )
        return {"train": path}
    _note_loose(files, left_out)
    if "train" not in parts and not judged:
        names = " and ".join(f"{place.name}/" for place in parts.values())
        lacks = f"{path} has {names} but no train/"
        raise LfdeployError(f"{lacks}. Add train/ with the same class folders, or rename {names}.")
    return parts


def _check_others(parts: dict[str, Path], others: list[Path], path: Path, left_out: LeftOut) -> None:
    """Leave out folders beside the splits that hold no pictures; raise where one of them holds some."""
    full = [child.name for child in others if next(pictures_below(child, {}), None) is not None]
    if full:
        splits = ", ".join(f"{split} = {place.name}/" for split, place in parts.items())
        names = sorted([*(place.name for place in parts.values()), *(child.name for child in others)])
        first = next(iter(parts.values())).name
        others_ = some(f"{name}/" for name in full)
        raise LfdeployError(
            f"{path} can be read in two ways. As splits: {splits}, and {others_} left out. As classes: "
            f"{some(names, 8)}. Rename {first}/ if it is a class, or move it away if it is a split."
        )
    left_out.setdefault(WITHOUT, set()).update(others)


def _wrapped(path: Path, child: Path, judged: bool) -> Path | None:
    """The only folder in a folder, where that one is the data set; raises where that cannot be known."""
    inner, _ = _entries(child, {})
    if any(split_of(place.name) for place in inner):
        return child
    if len(inner) > 1 and not judged:
        names = some(place.name for place in inner)
        one = f"{path} holds one folder, {child.name}/"
        raise LfdeployError(f"{one}. If its folders ({names}) are the classes, type --data {child}")
    return None


def _class_folders(split: str, top: Path, path: Path, left_out: LeftOut, remarks: list[str]) -> list[Path]:
    """The class folders of one split, by name."""
    folders, files = _entries(top, left_out)
    while len(folders) == 1 and top != path and split_of(folders[0].name) == split:
        remarks.append(f"{shown(top, path)} holds one folder, {folders[0].name}/, taken in its place")
        folders, files = _entries(folders[0], left_out)
    if not folders:
        pictures = len(_by_name(files))
        what = "is empty"
        if pictures:
            what = f"has {counted(pictures, 'picture')} but no class folders: what they show is not known"
        hold = "" if split == "train" else f", or move {top} away: then a share of train is held out"
        raise LfdeployError(f"{top} {what}. Sort pictures into a folder for each class{hold}.")
    _note_loose(files, left_out)
    for place in folders:
        for child in _subfolders(place):
            if split_of(child.name) and next(pictures_below(child, {}), None) is not None:
                above = f"{path}/{child.name}/{place.name}/"
                raise LfdeployError(
                    f"{place} holds {child.name}/. A split belongs above the classes: {above}. "
                    f"As part of the class '{place.name}' it needs another name."
                )
    return folders


def _classes(tops: dict[str, list[Path]], first: str, judged: bool) -> tuple[str, ...]:
    """The classes of train by name, the most that other splits have; for ``judged`` those of all splits."""
    by_split: dict[str, list[str]] = {}
    for split, folders in tops.items():
        by_split[split] = [label_of(place.name, str(place.parent)) for place in folders]
        check_labels(by_split[split], str(folders[0].parent))
    classes = {label.casefold(): label for label in by_split[first]}
    for split, labels in by_split.items():
        for place, label in zip(tops[split], labels, strict=True):
            if label.casefold() not in classes and not judged:
                top = tops[first][0].parent
                raise LfdeployError(f"{place.parent} has the class '{label}', which {top} has not.")
            classes.setdefault(label.casefold(), label)
    return tuple(sorted(classes.values()))


def _entries(place: Path, left_out: LeftOut) -> tuple[list[Path], list[Path]]:
    """Folders and files directly in a folder, by name, links followed; ``left_out`` takes what is skipped."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        children = sorted(place.iterdir())
    except OSError:
        left_out.setdefault(DENIED, set()).add(place)
        return folders, files
    for child in children:
        if child.name.startswith(".") or child.name.casefold() in JUNK:
            left_out.setdefault(HIDDEN, set()).add(child)
            continue
        try:
            mode = child.stat().st_mode
        except OSError:
            left_out.setdefault(DANGLING if child.is_symlink() else DENIED, set()).add(child)
            continue
        if stat.S_ISDIR(mode):
            folders.append(child)
        elif stat.S_ISREG(mode):
            files.append(child)
        else:
            left_out.setdefault(SPECIAL, set()).add(child)
    return folders, files


def _subfolders(place: Path) -> list[Path]:
    """The folders directly in a folder, without a look at its files; none where it may not be read."""
    try:
        with os.scandir(place) as entries:
            folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
            return [Path(entry.path) for entry in folders]
    except OSError:
        return []


def pictures_below(
    place: Path,
    left_out: LeftOut,
    known: set[tuple[int, int]] | None = None,
) -> Iterator[Path]:
    """Files that are pictures by name, at any depth; no folder is read twice, so links in a circle end."""
    known = set() if known is None else known
    here = place.stat()
    if (here.st_dev, here.st_ino) in known:
        left_out.setdefault(CIRCLE, set()).add(place)
        return
    known.add((here.st_dev, here.st_ino))
    folders, files = _entries(place, left_out)
    pictures = set(_by_name(files))
    for file in files:
        if file in pictures:
            yield file
        else:
            left_out.setdefault(_unread(file), set()).add(file)
    for child in folders:
        yield from pictures_below(child, left_out, known)


def _by_name(files: list[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() in SUFFIXES + MORE_SUFFIXES]


def _note_loose(files: list[Path], left_out: LeftOut) -> None:
    pictures = set(_by_name(files))
    for file in files:
        left_out.setdefault(LOOSE if file in pictures else _unread(file), set()).add(file)


def _unread(file: Path) -> str:
    suffix = clean(file.suffix.lower())
    if suffix in NOT_READ:
        return f"{{}} left out: {suffix} is a picture format that is not read, save as PNG"
    return f"{{}} left out: {suffix} is no picture format" if suffix else "{} left out: no ending like .jpg"


def sentences(left_out: LeftOut, root: Path) -> list[str]:
    """One sentence for each reason: how many, why, and an example."""
    lines = []
    for reason, paths in left_out.items():
        if reason == HIDDEN:
            names = some(name for name, _ in Counter(path.name for path in sorted(paths)).most_common())
            lines.append(f"{reason.format(len(paths))} ({names})")
            continue
        noun = "folder" if reason in (WITHOUT, CIRCLE) else "file"
        lines.append(f"{reason.format(counted(len(paths), noun))} ({shown(min(paths), root)})")
    return lines


def shown(path: Path, root: Path) -> str:
    """A path as it is told, from the folder or table that was named."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
