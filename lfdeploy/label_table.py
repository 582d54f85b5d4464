"""A CSV file of pictures and labels, for people who keep labels in a table: ``path,label[,split]``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels
from lfdeploy.labels import check_labels, counted, label_of, split_of
from lfdeploy.sources import Labels, Source

HEADER = "Its first line must be path,label or path,label,split"


@dataclass(frozen=True)
class Row:
    """One line of the table: its number, picture, label, and split, None in a table without splits."""

    number: int
    path: str
    label: str
    split: str | None


def label_table(path: Path, judged: bool = False) -> Source:
    """A CSV file with the header ``path,label[,split]``, UTF-8; paths are relative to the file, or absolute.

    ``judged``: pictures to be judged, not trained on: any split will do. Other columns are not looked at, and
    named in a remark; one that looks like splits is refused.
    Raises `LfdeployError` for what is not such a table, or contradicts itself.
    """
    if not path.is_file():
        raise LfdeployError(f"--data {path}: no such file.")
    found, others = _rows(path, judged)
    rows, again = _without_repeats(found, path)
    files = [path.parent / row.path for row in rows]
    if not any(_is_there(file) for file in files):
        slashes = " Write / in place of \\." if "\\" in rows[0].path else ""
        none = f"{path}: none of its {len(rows)} pictures is there ({rows[0].path})"
        raise LfdeployError(f"{none}. Paths count from {path.parent}/.{slashes}")
    classes = tuple(sorted({row.label for row in rows}))
    check_labels(classes, str(path))
    repeat = "repeats another and counts" if again == 1 else "repeat another and count"
    remarks = [f"{counted(again, 'row')} of {path.name} {repeat} once"] if again else []
    if others:
        remarks.append(f"columns of {path.name} that are not looked at: {', '.join(others)}")
    splits: dict[str, tuple[Pixels | list[Path], Labels]] = {}
    for split in ("train", "val", "test"):
        index = [i for i, row in enumerate(rows) if (row.split or "train") == split]
        if index:
            labels = np.array([classes.index(rows[i].label) for i in index], dtype=np.int64)
            splits[split] = [files[i] for i in index], labels
    if "train" not in splits and not judged:
        raise LfdeployError(f"{path}: no row has the split train; it has {', '.join(splits)}.")
    return Source(classes, splits, remarks=tuple(remarks), root=path.parent)


def _rows(path: Path, judged: bool) -> tuple[list[Row], list[str]]:
    """The rows, and the names of columns that nobody looks at."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise LfdeployError(f"{path} is not UTF-8 (line {line}). Save it again as 'CSV UTF-8'.") from None
    except OSError as error:
        raise LfdeployError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        lines = _lines(text)
        header = [name.strip().casefold() for name in next(lines, (0, []))[1]]
        columns = _columns(header, path)
        others = {place: set[str]() for place in range(len(header)) if place not in columns.values()}
        rows = []
        for number, cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise LfdeployError(
                    f"{path}, line {number}: {counted(len(cells), 'cell')}, "
                    f"but the header has {len(header)}. "
                    'A path or label with a comma goes into quotes: "a, b.png"'
                )
            rows.append(_row(cells, columns, number, path))
            for place, values in others.items():
                values.add(cells[place].strip())
    except csv.Error as error:
        raise LfdeployError(f"{path} cannot be read as CSV: {error}.") from None
    if not rows:
        raise LfdeployError(f"{path} has no rows below its header.")
    for place, values in others.items():
        if "split" in columns or judged or len(values) < 2 or any(map(str.isdigit, "".join(values))):
            continue
        if all(split_of(value) for value in values):
            told = f"{path}: the column '{header[place]}' has {', '.join(sorted(values))}"
            raise LfdeployError(f"{told}. If it is the split, call it split; if not, remove it.")
    return rows, [header[place] or "one without a name" for place in others]


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of cells with the numbers of their lines. A quote after a blank is one, where it can be."""
    for blank in (True, False):
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=blank)
        try:
            return iter([(reader.line_num, cells) for cells in reader])
        except csv.Error:
            if not blank:
                raise
    raise AssertionError("unreachable")


def _columns(header: list[str], path: Path) -> dict[str, int]:
    """The places of the columns path, label and, where there is one, split."""
    if not header:
        raise LfdeployError(f"{path} is empty. {HEADER}.")
    for name in ("path", "label", "split"):
        if header.count(name) > 1:
            raise LfdeployError(f"{path} has {header.count(name)} columns called {name}; leave one.")
    missing = [name for name in ("path", "label") if name not in header]
    if missing:
        first = ",".join(header)
        separated = " Columns are separated by commas." if any(mark in first for mark in (";", "\t")) else ""
        lacks = f"{path} begins with '{first[:60]}' and lacks the column {' and '.join(missing)}"
        raise LfdeployError(f"{lacks}. {HEADER}.{separated}")
    return {name: header.index(name) for name in ("path", "label", "split") if name in header}


def _row(cells: list[str], columns: dict[str, int], number: int, path: Path) -> Row:
    where = f"{path}, line {number}"
    values = {name: cells[place].strip() for name, place in columns.items()}
    for name, value in values.items():
        if not value:
            raise LfdeployError(f"{where}: the {name} is empty. Fill it in, or remove the line.")
    if "\0" in values["path"]:
        raise LfdeployError(f"{where}: the path holds a zero byte.")
    split = None
    if "split" in values:
        split = split_of(values["split"])
        if split is None:
            raise LfdeployError(f"{where}: the split is '{values['split']}'; it must be train, val or test.")
    return Row(number, values["path"], label_of(values["label"], where), split)


def _without_repeats(rows: list[Row], path: Path) -> tuple[list[Row], int]:
    """Each picture once, and how many rows repeat one; raises where one has two labels or two splits."""
    first: dict[Path, Row] = {}
    for row in rows:
        before = first.setdefault(_place(path.parent, row.path), row)
        for kind, one, other in (("labels", before.label, row.label), ("splits", before.split, row.split)):
            if one != other:
                lines = f"{one} (line {before.number}) and {other} (line {row.number})"
                raise LfdeployError(f"{path}: {row.path} has two {kind}, {lines}. Remove one.")
    return list(first.values()), len(rows) - len(first)


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long, a folder that may not be looked into
        return False


def _place(folder: Path, path: str) -> Path:
    """One place for one file, however its path is spelled; links are not followed."""
    parts: list[str] = []
    for part in (folder.absolute() / path).parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != "..":
            parts.append(part)
    return Path(*parts)
