"""What names of folders and labels mean: splits in the spellings people use, and names fit for labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from lfdeploy.errors import LfdeployError
from lfdeploy.names import readable

SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": (
        "val",
        "vals",
        "valid",
        "validate",
        "validation",
        "dev",
        "devel",
        "development",
        "eval",
        "evaluation",
    ),
    "test": ("test", "tests", "testing", "tst"),
}
ORNAMENTS = {
    "set",
    "data",
    "dataset",
    "split",
    "image",
    "images",
    "img",
    "imgs",
    "picture",
    "pictures",
    "photos",
    "seg",
}
#: Blanks without width, marks of direction, soft hyphens; not what joins letters or emoji.
UNSEEN = "[\u00ad\u200b\u200e\u200f\u2060\ufeff]"
ENDINGS = ("dataset", "images", "split", "data", "sets", "set")


def split_of(name: str) -> str | None:
    """The split that a name like Training or VALID_set stands for: ``train``, ``val``, ``test``, or None."""
    words = [word for word in re.split(r"[\W_\d]+", clean(name).casefold()) if word and word not in ORNAMENTS]
    if len(words) != 1:
        return None
    stems = [words[0], *(words[0].removesuffix(ending) for ending in ENDINGS)]
    for split, spellings in SPELLINGS.items():
        if any(stem in spellings for stem in stems):
            return split
    return None


def clean(name: str) -> str:
    """A name without blanks around it, in the composed form of Unicode, so that what looks equal is equal."""
    return unicodedata.normalize("NFC", name.strip())


def label_of(name: str, where: str) -> str:
    """The label that a folder's or a table's name gives; raises for one that no file could hold."""
    label = clean(name)
    if not label:
        raise LfdeployError(f"{where} has a class without a name ({name!r}); give it one.")
    if not readable(label):
        raise LfdeployError(f"{where} has the class {name!a}, which cannot be printed; rename it.")
    return label


def check_labels(labels: Iterable[str], where: str) -> None:
    """Raise for two names of classes that a person would take for one."""
    seen: dict[str, str] = {}
    for label in labels:
        key = _looks(label)
        if key in seen:
            kind, names = "twice the class", f"'{label}'"
            if label != seen[key]:
                kind, names = (
                    "the classes",
                    f"{_told(seen[key])} and {_told(label)}, {_differ(seen[key], label)}",
                )
            raise LfdeployError(f"{where} has {kind} {names}. Merge or rename them.")
        seen[key] = label


def _looks(label: str) -> str:
    """What a person sees of a name: no case, nothing that cannot be seen, any blank as a blank; of a whole
    number its value.
    """
    plain = re.sub(r"\s+", " ", re.sub(UNSEEN, "", clean(label))).strip().casefold()
    whole = re.fullmatch(r"([+-]?\d+)(\.0*)?", plain, re.ASCII)
    return str(int(whole[1])) if whole else plain


def _differ(one: str, other: str) -> str:
    if clean(one).casefold() == clean(other).casefold():
        return "which differ only in case"
    shown = any(char.isdigit() for char in one) and _looks(one).lstrip("+-")[:1].isdigit()
    return "which are the same number" if shown else "which look the same"


def _told(label: str) -> str:
    """A name in quotes; what cannot be seen of it as its code."""
    odd = ("Cf", "Zs")
    return (
        "'"
        + "".join(
            f"\\u{ord(char):04x}" if unicodedata.category(char) in odd and char != " " else char
            for char in label
        )
        + "'"
    )


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of many names, for a sentence."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def counted(count: int, noun: str) -> str:
    """Like 1 picture, 30 pictures, 4,000 files."""
    plural = {"class": "classes"}.get(noun, f"{noun}s")
    return f"{count:,} {noun if count == 1 else plural}"
