"""An answer that the page has shown is not made again."""

from __future__ import annotations

from typing import Any

import pytest
from asked import answering
from serve_pictures import JPEG

from serve import recent
from serve.answer import answer_of, classify
from serve.engine import Engine, Outcome
from serve.entries import Entry
from serve.recent import MOST, Recent
from serve.render import answered
from serve.state import state_of


def test_each_is_given_once_and_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: Recent[int] = Recent()
    for number in range(MOST + 1):
        kept.put(b"%d" % number, number)
    assert kept.take(b"0") is None and kept.take(b"other") is None
    assert (kept.take(b"1"), kept.take(b"1")) == (1, None)
    monkeypatch.setattr(recent, "SOON", -1.0)
    assert kept.take(b"2") is None


def test_what_v1_answered_the_page_is_told_again(
    entries: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same HTML, times included, and the model runs once; a program's request keeps nothing."""
    ran: list[Outcome] = []
    settle = Engine._settle

    def counted(self: Engine, job: Any, found: Any) -> None:
        ran.append(found)
        settle(self, job, found)

    monkeypatch.setattr(Engine, "_settle", counted)
    with answering(state_of([next(iter(entries.values()))])) as api:
        (engine,) = api.state.engines.values()
        status, headers, body = api("POST", "/v1/classify", JPEG, Accept="text/html")
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/html")
        assert answered(classify(engine, JPEG)) == body.decode() == answered(answer_of(ran[0]))
        assert len(ran) == 1
        classify(engine, JPEG)
        assert len(ran) == 2
        api("POST", "/v1/classify", JPEG)
        classify(engine, JPEG)
        assert len(ran) == 4
