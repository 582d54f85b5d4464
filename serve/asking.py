"""From a picture to its outcome, by whichever route it came: counted once, given up with its sender."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from lfdeploy.errors import PictureError
from lfdeploy.images import Pixels
from serve.engine import PATIENCE, Busy, Engine, Late, Outcome
from serve.problems import Problem, problem_of
from serve.state import State

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")
#: Pictures of one request that are under way at once: others' find room beside them.
AT_ONCE = 16
PAUSE = 0.005
#: Seconds in which nobody looks whether the client has left: most are answered by then.
SOON = 0.05


async def ask(
    state: State,
    engine: Engine,
    source: bytes | Pixels,
    *,
    explain: bool = False,
    patience: float = PATIENCE,
    waits: bool = False,
) -> Outcome:
    """The outcome of one picture. ``waits`` for room where the queue is full. Raises `Problem`."""
    pictures, key = state.metrics.pictures, engine.entry.key
    try:
        future = await _taken(engine, source, explain, patience, waits)
        outcome = await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        pictures.labels(key, "cancelled").inc()
        raise
    except PictureError as error:
        pictures.labels(key, "refused").inc()
        raise problem_of(error) from None
    except Exception as error:
        pictures.labels(key, "rejected" if isinstance(error, (Busy, Late)) else "failure").inc()
        raise problem_of(error) from error
    state.metrics.answered(outcome)
    return outcome


async def _taken(
    engine: Engine, source: bytes | Pixels, explain: bool, patience: float, waits: bool
) -> Future[Outcome]:
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while waits and engine.depth >= max(1, engine.most // 2) and loop.time() < end:
        await asyncio.sleep(PAUSE)  # half of the queue is for those who send one picture
    while True:
        try:
            return engine.submit(source, explain=explain, patience=max(0.1, end - loop.time()))
        except Busy:
            if not waits or loop.time() > end:
                raise
        await asyncio.sleep(PAUSE)


async def ask_all(state: State, engine: Engine, rows: Sequence[bytes | Pixels]) -> list[Outcome]:
    """The outcomes of all pictures of one request, in order. Raises the first `Problem`; of several pictures
    it says which one has it.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def outcome(number: int, row: bytes | Pixels) -> Outcome:
        try:
            return await in_turn(state, engine, gate, row)
        except Problem as problem:
            if len(rows) > 1:
                problem.message = f"Picture {number} of {len(rows)}: {problem.message}"
            raise

    tasks = [asyncio.ensure_future(outcome(number, row)) for number, row in enumerate(rows, 1)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def in_turn(
    state: State, engine: Engine, gate: asyncio.Semaphore, row: bytes | Pixels, explain: bool = False
) -> Outcome:
    """The outcome of one of many pictures of a request, so many at a time as its gate lets through."""
    try:
        await gate.acquire()
    except asyncio.CancelledError:
        state.metrics.pictures.labels(engine.entry.key, "cancelled").inc()
        raise
    try:
        return await ask(state, engine, row, explain=explain, waits=True)
    finally:
        gate.release()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; where its client leaves, the work is given up. The body must have been read."""
    own, left = asyncio.current_task(), asyncio.Event()
    assert own is not None
    watches: list[asyncio.Task[None]] = []

    async def watch() -> None:
        await _gone(request)
        left.set()
        own.cancel()

    clock = asyncio.get_running_loop().call_later(SOON, lambda: watches.append(asyncio.create_task(watch())))
    try:
        return await work
    except asyncio.CancelledError:
        if not left.is_set():
            raise
        own.uncancel()
        raise Problem("bad_request", "The client has left.") from None
    finally:
        clock.cancel()
        for task in watches:
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
