"""What a command returns to the shell when it fails."""

from __future__ import annotations

from lfdeploy.errors import Interrupted, LfdeployError, ParityError, UnverifiedError, UsageError

CODES: dict[type[LfdeployError], int] = {
    LfdeployError: 1,
    UsageError: 2,
    ParityError: 3,
    UnverifiedError: 4,
    Interrupted: 128 + 2,  # as after SIGINT
}


def exit_code(error: LfdeployError) -> int:
    """The code of the nearest kind of failure in the table."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
