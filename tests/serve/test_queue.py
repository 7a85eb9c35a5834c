"""The durable queue, on SQLite and on a real PostgreSQL server where Debian's package is installed."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from serve_harness import make_settings

from latentsync_ray import read_records
from latentsync_ray.errors import ConfigError
from latentsync_ray.records import Records
from latentsync_ray.serve.failures import reclaim
from latentsync_ray.serve.queue import Outcome, Queue
from latentsync_ray.serve.tables import COMPLETED, IN_PROGRESS, IN_QUEUE, connect

ARGUMENTS = {"video_url": "http://a/v", "audio_url": "http://a/a", "guidance_scale": 1.0, "seed": 1, "loop_mode": None}
DONE = Outcome(code=200, body={"video": {"url": "http://a/r"}})


@pytest.fixture(params=["sqlite", "postgres"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Queue]:
    url = request.getfixturevalue("postgres") if request.param == "postgres" else f"sqlite:///{tmp_path}/queue.sqlite"
    engine = connect(url)
    yield Queue(engine)
    with engine.begin() as connection:
        for table in ("requests", "logs"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    engine.dispose()


def submit(queue: Queue, **more) -> str:
    return queue.submit("tester", ARGUMENTS, base="http://a", **more)[0].id


def test_from_acceptance_to_result(queue: Queue) -> None:
    request_id = submit(queue)
    row = queue.get(request_id)
    assert row is not None
    assert (row.status, row.attempts, row.arguments) == (IN_QUEUE, 0, ARGUMENTS)
    claimed = queue.claim(request_id, lease_seconds=9)
    assert claimed is not None
    assert (claimed.status, claimed.attempts) == (IN_PROGRESS, 1)
    assert queue.claim(request_id, lease_seconds=9) is None
    queue.log(request_id, "half way")
    assert queue.finish(request_id, DONE, attempt=1)
    done = queue.get(request_id)
    assert done is not None
    assert (done.status, done.code, done.body) == (COMPLETED, 200, DONE.body)
    assert [line.message for line in queue.logs(request_id)] == ["half way"]
    assert queue.counts() == {IN_QUEUE: 0, IN_PROGRESS: 0, COMPLETED: 1}


def test_the_last_line_comes_with_the_result_or_not_at_all(queue: Queue) -> None:
    request_id = submit(queue)
    queue.claim(request_id, lease_seconds=-1)
    queue.release(request_id, 1, attempts=3, reason="taken for dead")
    queue.claim(request_id, lease_seconds=9)
    assert not queue.finish(request_id, DONE, attempt=1, line="done by the first")
    assert queue.finish(request_id, DONE, attempt=2, line="done", level="WARN")
    lines = [(line.message, line.level) for line in queue.logs(request_id)]
    assert lines[1:] == [("done", "WARN")]


def test_a_webhook_is_delivered_by_one(queue: Queue) -> None:
    request_id = submit(queue, webhook="http://a/hook")
    queue.cancel(request_id)
    (due,) = queue.due_webhooks()
    assert queue.claim_webhook(due, until=time.time() + 9)
    assert not queue.claim_webhook(due, until=time.time() + 9)
    assert queue.due_webhooks() == []
    queue.delivered(due, again_at=time.time() - 1)
    (again,) = queue.due_webhooks()
    assert not queue.claim_webhook(due, until=time.time() + 9), "that was the attempt before"
    assert queue.claim_webhook(again, until=time.time() - 1)
    assert len(queue.due_webhooks()) == 1, "whoever claimed it went away"


def test_ids_that_are_none(queue: Queue) -> None:
    for odd in ("", "\0", "x" * 36, "%00", "a" * 100_000):
        assert queue.get(odd) is None
        assert queue.states([odd]) == ({}, {})


def test_many_at_once(queue: Queue) -> None:
    running, waits, low = submit(queue), submit(queue), submit(queue, priority=1)
    queue.claim(running, lease_seconds=9)
    queue.log(running, "one")
    queue.log(running, "two")
    last = queue.logs(running)[-1].id
    states, positions = queue.states([running, low, "unknown"])
    assert states == {running: (IN_PROGRESS, last), low: (IN_QUEUE, 0)}
    assert positions == {low: 1}
    assert queue.states([waits])[1] == {waits: 0}
    assert queue.states([]) == ({}, {})


def test_first_come_first_served_and_low_priority_last(queue: Queue) -> None:
    low = submit(queue, priority=1)
    first, second = submit(queue), submit(queue)
    assert queue.waiting(9) == [first, second, low]
    assert [queue.position(queue.get(each)) for each in (first, second, low)] == [0, 1, 2]  # pyright: ignore[reportArgumentType]
    queue.claim(first, lease_seconds=9)
    assert queue.position(queue.get(low)) == 1  # pyright: ignore[reportArgumentType]


def test_one_of_many_workers_gets_a_request(queue: Queue) -> None:
    request_id = submit(queue)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: queue.claim(request_id, lease_seconds=9), range(8)))
    assert sum(claim is not None for claim in claims) == 1


def test_the_same_idempotency_key_is_the_same_request(queue: Queue) -> None:
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: queue.submit("tester", ARGUMENTS, base="http://a", idempotency_key="once"), range(4)))
    assert len({row.id for row, _ in rows}) == 1
    assert sum(new for _, new in rows) == 1
    assert queue.submit("other", ARGUMENTS, base="http://a", idempotency_key="once")[1], "keys do not share them"


def test_a_worker_that_was_given_up_cannot_finish(queue: Queue) -> None:
    request_id = submit(queue)
    queue.claim(request_id, lease_seconds=-1)
    assert queue.abandoned() == [(request_id, 1)]
    queue.release(request_id, 1, attempts=3, reason="no sign of life")
    second = queue.claim(request_id, lease_seconds=9)
    assert second is not None
    assert second.attempts == 2
    assert not queue.renew(request_id, 1, lease_seconds=9)
    assert not queue.finish(request_id, Outcome.failure(500, "late", "late"), attempt=1)
    assert queue.finish(request_id, DONE, attempt=2)
    assert not queue.finish(request_id, DONE, attempt=2), "delivered once"


def test_a_request_that_kills_its_workers_ends(queue: Queue) -> None:
    request_id = submit(queue)
    for attempt in (1, 2, 3):
        assert queue.claim(request_id, lease_seconds=-1) is not None
        queue.release(request_id, attempt, attempts=3, reason="killed")
    row = queue.get(request_id)
    assert row is not None
    assert (row.status, row.code) == (COMPLETED, 503)
    assert row.body is not None
    assert row.body["error_type"] == "runner_disconnected"


def test_cancelling(queue: Queue) -> None:
    waiting, working, finished = (submit(queue) for _ in range(3))
    queue.claim(working, lease_seconds=9)
    queue.claim(finished, lease_seconds=9)
    queue.finish(finished, DONE, attempt=1)
    assert queue.cancel(waiting) == IN_QUEUE
    assert queue.get(waiting).code == 499  # pyright: ignore[reportOptionalMemberAccess]
    assert queue.cancel(working) == IN_PROGRESS
    assert not queue.renew(working, 1, lease_seconds=9), "its worker is told to end"
    assert queue.give_up(working, 1)
    assert queue.get(working).code == 499  # pyright: ignore[reportOptionalMemberAccess]
    assert queue.cancel(finished) == COMPLETED
    assert queue.get(finished).code == 200  # pyright: ignore[reportOptionalMemberAccess]
    assert queue.cancel("nobody") is None


def test_a_cancelled_request_whose_worker_dies_is_not_done_again(queue: Queue) -> None:
    request_id = submit(queue)
    queue.claim(request_id, lease_seconds=9)
    queue.cancel(request_id)
    queue.release(request_id, 1, attempts=3, reason="killed")
    assert queue.get(request_id).code == 499  # pyright: ignore[reportOptionalMemberAccess]


def test_start_deadlines(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    late, early, again = (submit(queue, start_before=time.time() + seconds) for seconds in (-1, 9000, 600))
    assert queue.claim(late, lease_seconds=9) is None
    assert queue.claim(again, lease_seconds=-1) is not None
    queue.release(again, 1, attempts=3, reason="killed")
    monkeypatch.setattr("latentsync_ray.serve.queue.time", SimpleNamespace(time=lambda: time.time() + 700))
    assert queue.expire() == 1
    assert queue.get(late).code == 504  # pyright: ignore[reportOptionalMemberAccess]
    assert queue.claim(again, lease_seconds=9) is not None, "it had started in time"
    assert queue.claim(early, lease_seconds=9) is not None


def test_a_server_that_starts_alone_takes_everything_back(queue: Queue, tmp_path: Path) -> None:
    working, finished = submit(queue), submit(queue)
    for each in (working, finished):
        queue.claim(each, lease_seconds=99)
    queue.finish(finished, DONE, attempt=1)
    settings = make_settings(tmp_path / "data", attempts=2)
    reclaim(queue, settings)
    assert queue.waiting(9) == [working]
    queue.claim(working, lease_seconds=99)
    reclaim(queue, settings)
    assert queue.counts()["COMPLETED"] == 2
    Records(settings.folder, mixed_recipes=True)
    assert read_records(settings.folder)["error_code"].to_pylist() == ["worker_died"]


def test_cleaning_keeps_what_is_young_unfinished_or_undelivered(queue: Queue) -> None:
    old, undelivered, waiting = submit(queue), submit(queue, webhook="http://a/hook"), submit(queue)
    for each in (old, undelivered):
        queue.claim(each, lease_seconds=9)
        queue.log(each, "line")
        queue.finish(each, DONE, attempt=1)
    assert queue.clean(older_than=time.time() - 60) == 0
    assert queue.clean(older_than=time.time() + 1) == 1
    assert queue.get(old) is None
    assert not queue.logs(old)
    assert queue.get(undelivered) is not None
    assert queue.get(waiting) is not None


def test_a_database_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a usable SQLAlchemy URL"):
        connect("nonsense")
    with pytest.raises(ConfigError, match="cannot be used"):
        connect(f"postgresql+psycopg://{getpass.getuser()}@/nothing?host={tmp_path}")
