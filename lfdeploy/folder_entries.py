"""What lies in a folder of pictures: folders, pictures by name, all else with the reason why it is left out.

``left_out`` maps a reason, as a sentence with the place ``{}`` for how many, to the paths left out for it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lfdeploy.images import SUFFIXES
from lfdeploy.labels import clean, counted, some

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
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")
LeftOut = dict[str, set[Path]]

HIDDEN = "hidden and system files or folders skipped: {}"
DANGLING = "{} left out: links to what is not there"
CIRCLE = "{} left out: links back to a folder that was read already"
DENIED = "{} left out: no permission to read"
SPECIAL = "{} left out: not a regular file"
OWN = "{} left out: runs or artifacts of lfdeploy, not pictures"
LOOSE = "{} left out: beside the class folders, not in one"
WITHOUT = "{} left out: no pictures inside"


def entries(place: Path, left_out: LeftOut) -> tuple[list[Path], list[Path]]:
    """Folders and files directly in a folder, by name, links followed; ``left_out`` takes what is skipped."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        children = sorted(place.iterdir())
    except OSError:
        left_out.setdefault(DENIED, set()).add(place)
        return folders, files
    for child in children:
        if is_junk(child.name):
            left_out.setdefault(HIDDEN, set()).add(child)
            continue
        try:
            mode = child.stat().st_mode
        except OSError:
            left_out.setdefault(DANGLING if child.is_symlink() else DENIED, set()).add(child)
            continue
        if stat.S_ISDIR(mode):
            if _ours(child):
                left_out.setdefault(OWN, set()).add(child)
            else:
                folders.append(child)
        elif stat.S_ISREG(mode):
            files.append(child)
        else:
            left_out.setdefault(SPECIAL, set()).add(child)
    return folders, files


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or made by a system for itself."""
    return name.startswith(".") or name.casefold() in JUNK


def _ours(place: Path) -> bool:
    """Whether a folder is a run or an artifact of lfdeploy, or holds such folders and no picture beside."""
    if _made(place):
        return True
    return any(map(_made, subfolders(place))) and next(pictures_below(place, {}), None) is None


def _made(place: Path) -> bool:
    for name, key in (("spec.json", b'"data_fingerprint"'), ("manifest.json", b'"manifest_sha256"')):
        try:
            if key in (place / name).read_bytes():
                return True
        except OSError:
            continue
    return False


def subfolders(place: Path) -> list[Path]:
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
    folders, files = entries(place, left_out)
    pictures = set(pictures_of(files))
    for file in files:
        if file in pictures:
            yield file
        else:
            left_out.setdefault(_unread(file), set()).add(file)
    for child in folders:
        yield from pictures_below(child, left_out, known)


def pictures_of(files: list[Path]) -> list[Path]:
    """Those that are pictures by name."""
    return [file for file in files if file.suffix.lower() in SUFFIXES + MORE_SUFFIXES]


def note_loose(files: list[Path], left_out: LeftOut) -> None:
    """Leave out files that lie where only folders count."""
    pictures = set(pictures_of(files))
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
        noun = "folder" if reason in (WITHOUT, CIRCLE, OWN) else "file"
        lines.append(f"{reason.format(counted(len(paths), noun))} ({shown(min(paths), root)})")
    return lines


def shown(path: Path, root: Path) -> str:
    """A path as it is told, from the folder or table that was named."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
