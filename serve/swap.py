"""An artifact that was exported again takes the place of the one that is served, or nothing changes."""

from __future__ import annotations

import threading
from contextlib import suppress

from lfdeploy.artifact import read
from lfdeploy.errors import LfdeployError
from serve.entries import Entry, open_entry
from serve.problems import Problem
from serve.said import say
from serve.state import State

ONE = threading.Lock()


def swap(state: State, key: str) -> Entry:
    """Read the artifact's directory anew; serve it if its hashes are right, parity was not found to fail,
    its classes are the same and it answers. Raises `Problem` where the one before goes on.
    """
    engine = state.engine(key)
    before = engine.entry
    with ONE:
        try:
            entry = _checked(before)
        except Exception as error:  # whatever it is, the one before goes on
            if not state.quiet:
                state.metrics.swaps.labels(key, "refused").inc()
            say(f"lfdeploy serve: {key} stays as it was: {error}")
            raise Problem("swap_refused", f"{key} stays as it was: {error}") from None
        engine.swap(entry)
    if not state.quiet:
        state.metrics.swaps.labels(key, "success").inc()
        say(f"lfdeploy serve: {key} is now {entry.artifact.manifest['sha256'][:12]} ({entry.verdict})")
    return entry


def swap_all(state: State) -> None:
    """Each artifact as by `swap`; what is refused is said, and stays."""
    for key in state.engines:
        with suppress(Problem):
            swap(state, key)


def _checked(before: Entry) -> Entry:
    entry = open_entry(before.key, read(before.artifact.path), before.device, before.threads)
    if entry.predictor is None:
        raise LfdeployError(entry.reason)
    if entry.artifact.verdict == "fail":
        raise LfdeployError("its parity failed.")
    now, then = entry.artifact.manifest, before.artifact.manifest
    for key, what in (("labels", "classes are"), ("input", "input is"), ("outputs", "outputs are")):
        if now[key] != then[key]:  # requests under way were checked against the one before
            raise LfdeployError(f"its {what} not the same.")
    entry.artifact.check_file()  # again: what was opened is what was checked, whatever was renamed meanwhile
    return entry
