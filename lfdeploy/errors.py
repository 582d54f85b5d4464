"""What can go wrong by the user's hand. Every message says what is wrong and what to type next."""

from __future__ import annotations

import errno


class LfdeployError(Exception):
    """An expected failure: one line for the user, no traceback."""


class UsageError(LfdeployError):
    """Flags that contradict each other or have no meaning."""


class TooShort(LfdeployError):
    """Less time than one epoch takes; ``seconds`` would do."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class ParityError(LfdeployError):
    """An artifact does not answer as its PyTorch module does."""


class UnverifiedError(LfdeployError):
    """An artifact was built but could not be run here, and proof was required."""


class Interrupted(LfdeployError):
    """Ctrl-C or SIGTERM, after the state was saved."""


class PictureError(LfdeployError):
    """A file that is not a picture we accept.

    ``code`` is a stable word for programs (``truncated``, ``not_an_image``...); ``status`` the HTTP status.
    """

    def __init__(self, code: str, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Unsaid(LfdeployError):
    """An expected failure that another process has words for."""


def choose(kind: str, name: str, known: list[str], command: str = "", also: str = "") -> str:
    """Return ``name`` if known, else raise with the nearest guess and the choices.

    ``command`` lists them where they are too many for a line. ``also`` is one more sentence.
    """
    if name in known:
        return name
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if kind.endswith("precision") and name[-1:].isdigit():  # fp32 would be no mistyped fp8
        near = []
    guess = f" Did you mean '{near[0]}'?" if near else ""
    choices = f"See: {command}" if command else f"Choose one of: {', '.join(known)}."
    raise UsageError(f"Unknown {kind} '{name}'.{guess} {choices}{' ' * bool(also)}{also}")


def sentence(error: OSError) -> str:
    """Why a file could not be written or read, and what to do about it."""
    where = f"{error.filename} could not be written" if error.filename else "a file could not be written"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: {where}. Free some space, or name another place."
    if error.errno == errno.EFBIG:
        return f"Files may not grow so large here (ulimit -f): {where}. Allow more, or name another place."
    return f"{error.strerror}{f': {error.filename}' if error.filename else ''}. Free or name another place."
