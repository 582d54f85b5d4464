"""The directory for what visitors send: Gradio writes to it, and nothing of it outlives the server."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.said import say

UPLOADS = "GRADIO_TEMP_DIR"


class Gone(Exception):
    """The server ends: there is nothing left to build for, and nowhere to write to."""


class Uploads:
    """A directory that threads besides the server's own write to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._gone = False

    @contextmanager
    def held(self) -> Iterator[Path]:
        """The directory's path; until the block ends nobody removes it. Raises `Gone` afterwards."""
        with self._lock:
            if self._gone:
                raise Gone
            yield self._path

    def remove(self) -> None:
        """Delete the directory once nobody holds it. What an abandoned answer still writes to is named."""
        with self._lock:
            self._gone = True
            try:
                shutil.rmtree(self._path)
            except OSError as error:
                say(f"lfdeploy serve: {self._path} could not be deleted: {error.strerror or error}.")


@contextmanager
def uploads() -> Iterator[Uploads]:
    """A new directory that Gradio is told of by its variable, deleted afterwards."""
    before = os.environ.get(UPLOADS)
    made = Uploads(Path(tempfile.mkdtemp(prefix="lfdeploy-serve-")))
    try:
        with made.held() as path:
            os.environ[UPLOADS] = str(path)
        yield made
    finally:
        os.environ.pop(UPLOADS, None)
        if before is not None:
            os.environ[UPLOADS] = before
        made.remove()
