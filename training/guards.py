"""What keeps a training from losing what it has: signals, second processes, full disks, batches of one."""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, sentence
from lfdeploy.locks import Held, Lock, take
from lfdeploy.run import Run, typed
from training import checkpoint
from training.cohort import Cohort


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that receives SIGINT and SIGTERM instead of the process, so that a step can end first.

    A signal that is ignored, as in a background job, stays ignored; in a thread signals are the caller's.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        caught.append(number)

    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def lock_to_resume(run: Run) -> Lock:
    """The lock of a run that can be resumed. Raises where it is in training, has finished or has diverged.

    What a training that died left half-written is removed.
    """
    try:
        lock = take(run.lock)
    except Held as held:
        advice = "Wait for it to end, or stop it first."
        raise LfdeployError(f"Run {run.name} is in training already, by {held.owner}. {advice}") from None
    fault = run.diverged()
    if (run.path / "summary.json").exists():
        fault = f"Run {run.name} has finished already; there is nothing to resume."
    if fault:
        lock.release()
        raise LfdeployError(fault)
    if lock.descriptor is not None:
        for partial in (*run.path.glob(".*.partial*"), *run.path.glob("checkpoint/.*.partial")):
            partial.unlink(missing_ok=True)
    return lock


def what_is_kept(run: Run, error: OSError) -> str:
    """What to say when a file of the run could not be written: why, which state was, and how to go on."""
    saved = checkpoint.saved(run)
    state = "no state yet" if saved is None else f"its state of epoch {saved[0] + 1}, step {saved[1] + 1}"
    how = f"lfdeploy train --resume {typed(run.path)}"
    return f"{sentence(error)} Run {run.name} keeps {state}; then go on with: {how}"


def check_batch_of_one(cohort: Cohort, picture: Tensor, what: str) -> None:
    """Raise `LfdeployError` where BatchNorm would see one value a channel, for a normalised
    picture (1, 3, S, S). ``what`` in the settings makes a step of one picture.
    """
    with torch.random.fork_rng(), torch.no_grad():
        try:
            copy.deepcopy(cohort).train().see(picture)
        except ValueError:
            raise LfdeployError(
                f"{what} is too small for this network: its last maps are 1x1, and BatchNorm needs "
                "more than one value a channel. Use --batch-size 2 or more."
            ) from None
    if any(isinstance(part, _BatchNorm) for part in cohort.modules()):
        say(
            f"Note: with {what} BatchNorm learns from one picture at a time, and what it then uses of all of "
            "them is something else: answers may be no better than chance. Use --batch-size 8 or more."
        )
