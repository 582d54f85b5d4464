"""The directory of uploads goes with the server, whatever its threads are about."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from serve.lazy_page import Page
from serve.uploads import UPLOADS, Gone, Uploads, uploads


@pytest.mark.parametrize("before", ["", "/elsewhere"])
def test_gradio_is_told_of_it_and_nothing_is_left(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UPLOADS, before)
    if not before:
        monkeypatch.delenv(UPLOADS)
    with uploads() as sent:
        with sent.held() as folder:
            assert os.environ[UPLOADS] == str(folder)
            (folder / "a.png").write_bytes(b"x")
        assert folder.is_dir()
    assert not folder.exists() and os.environ.get(UPLOADS, "") == before


def test_nobody_writes_into_what_is_being_deleted(tmp_path: Path) -> None:
    """A server told to stop while its page writes the example pictures ended with 1 and left a picture."""
    folder = tmp_path / "sent"
    folder.mkdir()
    sent = Uploads(folder)
    writes, goes_on, ended = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        with sent.held() as place:
            writes.set()
            goes_on.wait(30)
            for number in range(100):
                (place / f"{number}.png").write_bytes(b"x")

    def remove() -> None:
        writes.wait(30)
        sent.remove()
        ended.set()

    threads = [threading.Thread(target=write), threading.Thread(target=remove)]
    for thread in threads:
        thread.start()
    writes.wait(30)
    assert not ended.is_set() and folder.exists()
    goes_on.set()
    for thread in threads:
        thread.join(30)
    assert ended.is_set() and not folder.exists()
    with pytest.raises(Gone), sent.held():
        pass


def test_what_cannot_be_deleted_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Uploads(tmp_path / "gone").remove()
    assert "gone could not be deleted: No such file or directory." in capsys.readouterr().err


def test_a_page_that_nobody_waits_for_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The server ended while it was built: there is nothing to tell."""

    def build() -> tuple[object, object]:
        raise Gone

    async def visited() -> None:
        page = Page(build)  # type: ignore[arg-type]
        page._make()
        await page.stopped()

    asyncio.run(visited())
    assert capsys.readouterr().err == ""
