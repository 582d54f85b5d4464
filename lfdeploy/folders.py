"""Folders of pictures: what they mean is said, and every file that is left out is counted with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lfdeploy.errors import LfdeployError
from lfdeploy.folder_entries import (
    ARCHIVES,
    WITHOUT,
    LeftOut,
    entries,
    is_junk,
    note_loose,
    pictures_below,
    pictures_of,
    sentences,
    shown,
    subfolders,
)
from lfdeploy.images import Pixels
from lfdeploy.labels import check_labels, counted, label_of, some, split_of
from lfdeploy.sources import Labels, Source


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
    folders, files = entries(path, left_out)
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
            loose = f", but {counted(len(pictures_of(files)), 'picture')}" if pictures_of(files) else ""
            packed = [file.name for file in files if file.suffix.lower() in ARCHIVES]
            if packed:
                raise LfdeployError(
                    f"{path} has no class folders, but {some(packed)}. Unpack it there first."
                )
            raise LfdeployError(
                f"{path} has no class folders{loose}. Put each class's pictures in a folder of its own: "
                f"{path}/cat/1.jpg, {path}/dog/2.jpg"
            )
        return {"train": path}
    note_loose(files, left_out)
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
    inner, _ = entries(child, {})
    if any(split_of(place.name) for place in inner):
        return child
    if len(inner) > 1 and not judged:
        names = some(place.name for place in inner)
        one = f"{path} holds one folder, {child.name}/"
        raise LfdeployError(f"{one}. If its folders ({names}) are the classes, type --data {child}")
    return None


def _class_folders(split: str, top: Path, path: Path, left_out: LeftOut, remarks: list[str]) -> list[Path]:
    """The class folders of one split, by name."""
    folders, files = entries(top, left_out)
    while len(folders) == 1 and top != path and split_of(folders[0].name) == split:
        remarks.append(f"{shown(top, path)} holds one folder, {folders[0].name}/, taken in its place")
        folders, files = entries(folders[0], left_out)
    if not folders:
        pictures = len(pictures_of(files))
        what = "is empty"
        if pictures:
            what = f"has {counted(pictures, 'picture')} but no class folders: what they show is not known"
        hold = "" if split == "train" else f", or move {top} away: then a share of train is held out"
        raise LfdeployError(f"{top} {what}. Sort pictures into a folder for each class{hold}.")
    note_loose(files, left_out)
    remarks += _deeper(split, folders)
    for place in folders:
        for child in subfolders(place):
            if split_of(child.name) and next(pictures_below(child, {}), None) is not None:
                if any(_has(inner) for inner in subfolders(child)):  # the classes are below the split
                    whole = f"{place} holds {child.name}/, a split with class folders"
                    raise LfdeployError(f"{whole}: it may be the data set. Then type --data {place}")
                above = f"{path}/{child.name}/{place.name}/"
                raise LfdeployError(
                    f"{place} holds {child.name}/. A split belongs above the classes: {above}. "
                    f"As part of the class '{place.name}' it needs another name."
                )
    return folders


def _has(place: Path) -> bool:
    return not is_junk(place.name) and next(pictures_below(place, {}), None) is not None


def _deeper(split: str, folders: list[Path]) -> list[str]:
    """What is said of class folders that hold folders: their pictures are theirs, and perhaps are not."""
    inner = {place: sorted(child.name for child in subfolders(place) if _has(child)) for place in folders}
    deep = [place for place in folders if inner[place]]
    if not deep:
        return []
    first = inner[deep[0]]
    if len(deep) == len(folders) > 1 and len(first) > 1 and all(inner[place] == first for place in folders):
        names, outer = some(f"{name}/" for name in first), some(f"{place.name}/" for place in folders)
        return [
            f"every class folder of {split} ({outer}) holds the same folders ({names}): "
            "if those are the classes, put them above, or name one folder by --data"
        ]
    said = f"{counted(len(deep), 'class folder')} of {split} {'holds' if len(deep) == 1 else 'hold'} folders"
    return [f"{said}; pictures in {deep[0].name}/{first[0]}/ are of class '{deep[0].name}'"]


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
                raise LfdeployError(
                    f"{place.parent} has the class '{label}', which {top} has not. Add its pictures there, "
                    "or take it out here."
                )
            classes.setdefault(label.casefold(), label)
    return tuple(sorted(classes.values()))
