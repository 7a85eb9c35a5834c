"""What waiting clients are told: for all of them at once, and never long behind the database."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from latentsync_ray.serve import status as module
from latentsync_ray.serve.queue import Outcome, Queue
from latentsync_ray.serve.status import StatusPoller, View
from latentsync_ray.serve.tables import COMPLETED, IN_PROGRESS, IN_QUEUE, RequestRow, connect


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/queue.sqlite")
    yield engine
    engine.dispose()


@pytest.fixture
def queue(engine: Engine) -> Queue:
    return Queue(engine)


def submit(queue: Queue) -> str:
    return queue.submit("tester", {"seed": 1}, base="http://a")[0].id


async def seen(poller: StatusPoller, request_id: str) -> View:
    view = await poller.look(request_id)
    assert view
    return view


async def later(poller: StatusPoller, request_id: str) -> View:
    """What is told when the last answer is too old."""
    await too_old(poller)
    return await seen(poller, request_id)


async def too_old(poller: StatusPoller) -> None:
    left = poller._good_until - time.monotonic()
    assert left <= module._OLDEST_SECONDS
    await asyncio.sleep(max(0.0, left) + 0.01)


def test_a_request_from_end_to_end(queue: Queue) -> None:
    async def follow() -> None:
        poller = StatusPoller(queue)
        first, second = submit(queue), submit(queue)
        assert [(await seen(poller, each)).position for each in (first, second)] == [0, 1]
        queue.claim(first, lease_seconds=9)
        queue.log(first, "one")
        view = await later(poller, first)
        assert (view.row.status, [line.message for line in view.lines]) == (IN_PROGRESS, ["one"])
        assert (await seen(poller, second)).position == 0
        queue.log(first, "two")
        queue.log(first, "three")
        assert [line.message for line in (await later(poller, first)).lines] == ["one", "two", "three"]
        queue.finish(first, Outcome(code=200, body={"video": 1}), attempt=1)
        row = (await later(poller, first)).row
        assert (row.status, row.code, row.body) == (COMPLETED, 200, {"video": 1})

    asyncio.run(follow())


def test_one_reading_serves_all(queue: Queue, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OLD_SECONDS", 60.0)
    queries: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: queries.append(arguments[2]))

    async def ask() -> None:
        poller = StatusPoller(queue)
        ids = [submit(queue) for _ in range(30)]
        for each in ids:
            await seen(poller, each)
        queries.clear()
        views = await asyncio.gather(*(seen(poller, each) for each in ids * 20))
        assert len(views) == 600
        assert len({id(view) for view in views}) == 30

    asyncio.run(ask())
    assert len(queries) <= 2  # states and order


def test_unknown_requests_are_asked_for_each_time(queue: Queue) -> None:
    async def ask() -> None:
        poller = StatusPoller(queue)
        assert await poller.look("unknown") is None
        assert not poller._asked
        assert not poller._views

    asyncio.run(ask())


def test_what_was_changed_from_here_is_seen_at_once(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OLD_SECONDS", 60.0)

    async def cancel() -> None:
        poller, request_id = StatusPoller(queue), submit(queue)
        await seen(poller, request_id)
        await seen(poller, request_id)
        queue.cancel(request_id)
        assert (await seen(poller, request_id)).row.status == IN_QUEUE
        poller.forget(request_id)
        assert (await seen(poller, request_id)).row.status == COMPLETED

    asyncio.run(cancel())


def test_who_asks_seldom_is_told_too(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASKED_SECONDS", 0.0)

    async def ask() -> None:
        poller, request_id = StatusPoller(queue), submit(queue)
        other = submit(queue)
        await seen(poller, other)
        assert (await seen(poller, request_id)).position == 0
        queue.claim(request_id, lease_seconds=9)
        assert (await later(poller, request_id)).row.status == IN_PROGRESS
        assert other not in poller._views  # nobody asked for it again

    asyncio.run(ask())


def test_a_new_request_during_a_reading(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither waits for the reading that began before it, nor is forgotten when that ends."""
    begun, go, states = threading.Event(), threading.Event(), queue.states
    old, new = submit(queue), submit(queue)

    def slow(request_ids: Any) -> Any:
        if new not in request_ids:
            begun.set()
            assert go.wait(60)
        return states(request_ids)

    async def ask() -> None:
        poller = StatusPoller(queue)
        await seen(poller, old)
        monkeypatch.setattr(queue, "states", slow)
        renewal = asyncio.create_task(seen(poller, old))
        assert await asyncio.to_thread(begun.wait, 60)
        await seen(poller, new)
        assert not renewal.done()
        go.set()
        assert (await renewal).row.id == old
        assert new in poller._views

    asyncio.run(ask())


def test_a_completed_request_has_all_its_lines(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it was completed while it was read: clients stop at the first COMPLETED."""
    states = queue.states

    def then_complete(request_ids: Any) -> Any:
        told = states(request_ids)
        queue.log(request_id, "done")
        queue.finish(request_id, Outcome(code=200, body={}), attempt=1)
        return told

    async def ask() -> None:
        poller = StatusPoller(queue)
        await seen(poller, request_id)
        queue.claim(request_id, lease_seconds=9)
        monkeypatch.setattr(queue, "states", then_complete)
        view = await later(poller, request_id)
        assert (view.row.status, [line.message for line in view.lines]) == (COMPLETED, ["done"])

    request_id = submit(queue)
    asyncio.run(ask())


def test_cancelled_during_a_reading(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reading found that began before is not shown any more."""
    monkeypatch.setattr(module, "_OLD_SECONDS", 0.0)
    begun, go, states = threading.Event(), threading.Event(), queue.states

    def slow(request_ids: Any) -> Any:
        told = states(request_ids)
        begun.set()
        assert go.wait(60)
        return told

    async def ask() -> None:
        poller, request_id = StatusPoller(queue), submit(queue)
        await seen(poller, request_id)
        monkeypatch.setattr(queue, "states", slow)
        reading = asyncio.create_task(seen(poller, request_id))
        assert await asyncio.to_thread(begun.wait, 60)
        monkeypatch.setattr(queue, "states", states)
        queue.cancel(request_id)
        poller.forget(request_id)
        go.set()
        await reading
        monkeypatch.setattr(module, "_OLD_SECONDS", 60.0)
        assert (await seen(poller, request_id)).row.status == COMPLETED

    asyncio.run(ask())


def test_a_database_that_does_not_answer_is_asked_once(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def fail(_: Any) -> Any:
        nonlocal calls
        calls += 1
        raise OperationalError("select", {}, Exception("no route to host"))

    async def ask() -> None:
        poller, request_id = StatusPoller(queue), submit(queue)
        await seen(poller, request_id)
        await later(poller, request_id)
        await too_old(poller)
        with monkeypatch.context() as patch:
            patch.setattr(queue, "states", fail)
            told = await asyncio.gather(*(poller.look(request_id) for _ in range(20)), return_exceptions=True)
        assert [type(each) for each in told].count(OperationalError) == calls == 1
        queue.claim(request_id, lease_seconds=9)
        assert (await later(poller, request_id)).row.status == IN_PROGRESS

    asyncio.run(ask())


def test_slow_readings_are_rarer_within_a_bound(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARE", 1e-9)

    async def ask() -> None:
        poller, request_id = StatusPoller(queue), submit(queue)
        for _ in range(2):
            await seen(poller, request_id)
        assert 0 < poller._good_until - time.monotonic() <= module._OLDEST_SECONDS

    asyncio.run(ask())


def test_few_answers_are_kept() -> None:
    view = View(row=RequestRow(), lines=[], position=0)
    told = [view.answer(number, lambda number=number: str(number).encode()) for number in range(100)]
    assert told == [str(number).encode() for number in range(100)]
    assert len(view.answers) == module._MOST_ANSWERS
    assert view.answer(3, lambda: b"made again") == b"3"


def test_a_request_that_was_cleaned_away(queue: Queue) -> None:
    async def ask() -> None:
        poller, request_id = StatusPoller(queue), submit(queue)
        await seen(poller, request_id)
        queue.cancel(request_id)
        queue.clean(older_than=1e12)
        await too_old(poller)
        assert await poller.look(request_id) is None

    asyncio.run(ask())
