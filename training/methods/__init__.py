"""The table of methods. To add one: a file here with its options, `build` and `graph`, and a row below."""

from __future__ import annotations

from training.methods import ffl, independent, lfmkd
from training.methods.method import Method

METHODS: dict[str, Method] = {
    "lfmkd": lfmkd.METHOD,
    "ffl": ffl.METHOD,
    "independent": independent.METHOD,
}
