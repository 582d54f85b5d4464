"""What is compared: methods with settings of their own, and seeds, as they are typed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lfdeploy.config import LARGEST_SEED, TrainConfig, parse_options
from lfdeploy.errors import UsageError, choose
from training.methods import METHODS
from training.teachers import check_teachers

#: Settings of a training that one of the compared may have for itself.
OWN = ("peers", "arch", "teacher")
TIMM = "\0"  # stands for the colon of an architecture of timm


@dataclass(frozen=True)
class Entry:
    """A method with its options, and settings of training that it has for itself."""

    label: str
    method: str
    options: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def stem(self) -> str:
        """What its runs are called, before the seed."""
        return re.sub(r"[^A-Za-z0-9_.]+", "-", self.label).strip("-.")

    def config(self, shared: TrainConfig, seed: int) -> TrainConfig:
        """The training of this entry with a seed; all else is ``shared``."""
        own = {key: int(value) if key == "peers" else value for key, value in self.settings}
        return replace(shared, method=self.method, option=self.options, seed=seed, **own)  # type: ignore[arg-type]


def entries_of(text: str) -> list[Entry]:
    """``lfmkd:attn=none:taps=1,2,ffl`` as entries: a comma ends one, but within a setting's value only where
    a method's name follows.
    """
    words: list[str] = []
    for piece in text.split(","):
        head = piece.strip().split(":")[0]
        within = bool(words) and "=" in words[-1].rpartition(":")[2]
        if within and head not in METHODS:
            words[-1] += f",{piece}"
        else:
            words.append(piece)
    found: list[Entry] = []
    for word in words:
        entry = _entry(word.strip())
        if entry.label in [other.label for other in found]:
            raise UsageError(f"{entry.label} is named twice; drop one.")
        found.append(entry)
    return found


def _entry(word: str) -> Entry:
    name, *pairs = word.replace("=timm:", f"={TIMM}").split(":")
    choose("method", name, list(METHODS))
    options: list[tuple[str, str]] = []
    settings: list[tuple[str, str]] = []
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not (key and sign and value):
            raise UsageError(f"{word}: '{pair}' is no setting; write KEY=VALUE.")
        (settings if key in OWN else options).append((key, value.replace(TIMM, "timm:")))
    for key, value in settings:
        if key == "peers" and not (value.isdecimal() and int(value) >= METHODS[name].least):
            least = METHODS[name].least
            raise UsageError(f"{word}: peers is '{value}'; it must be a number from {least} on.")
    parse_options(METHODS[name].options, options, name)
    check_teachers(name, METHODS[name].teachers, dict(settings).get("teacher"))
    return Entry(word, name, tuple(options), tuple(settings))


def seeds_of(text: str) -> list[int]:
    """``3`` as 0, 1, 2; ``5,6`` or ``5,`` as these."""
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal()]
    listed, strange = "," in text, len(numbers) != len([part for part in parts if part]) or not numbers
    if strange or (not listed and numbers[0] < 1):
        raise UsageError(
            f"--seeds is '{text}'; write how many, as in 3, or which, as in 5,6,7 or 5, for one alone."
        )
    seeds = numbers if listed else list(range(numbers[0]))
    if len(set(seeds)) < len(seeds) or max(seeds) > LARGEST_SEED:
        raise UsageError(f"--seeds is '{text}'; each is named once, at most {LARGEST_SEED}.")
    return seeds
