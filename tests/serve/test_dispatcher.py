"""The dispatcher's own duties: what a request leaves that nobody could finish, and loops that outlive what they meet."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from serve_harness import make_settings

from latentsync_ray import read_records
from latentsync_ray.errors import InputNotFound, StorageUnavailable
from latentsync_ray.serve.dispatcher import Dispatcher, WorkerGone, WorkFailed
from latentsync_ray.serve.server import Server
from latentsync_ray.serve.tables import COMPLETED

ASKED = {"video_url": "https://h.example/v.mp4?sig=S3CRETS3CRET", "audio_url": "https://h.example/a.wav", "seed": 3}
ASKED |= {"guidance_scale": 1.5, "loop_mode": "loop"}


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server.of(make_settings(tmp_path / "data", attempts=2))


@pytest.mark.parametrize(
    ("error", "code", "name"), [(WorkerGone("killed"), 503, "worker_died"), (WorkFailed("a bug"), 500, "internal_error")]
)
def test_a_request_that_nobody_can_finish_has_a_whole_record(
    server: Server, error: Exception, code: int, name: str, tmp_path: Path
) -> None:
    request_id = server.queue.submit("tester", ASKED, base="http://a")[0].id

    async def send(request_id: str) -> None:
        server.queue.claim(request_id, lease_seconds=60)
        raise error

    async def work() -> None:
        dispatcher = Dispatcher(server, send, ahead=1)
        for _ in range(2):
            await dispatcher._work(request_id)
        await dispatcher._collect()

    asyncio.run(work())
    row = server.queue.get(request_id)
    assert row is not None
    assert (row.status, row.code) == (COMPLETED, code)
    (record,) = read_records(tmp_path / "data").to_pylist()
    assert (record["clip_id"], record["status"], record["error_code"]) == (request_id, "failed", name)
    assert str(error) in record["error"]
    recipe = server.settings.recipe
    assert (record["model"], record["recipe"], record["seed"]) == ("tiny-random", recipe.fingerprint(), 3)
    assert record["version"]
    assert record["video"] == "https://h.example/v.mp4?***"


def test_a_request_ends_although_its_record_cannot_be_written(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = server.queue.submit("tester", ASKED, base="http://a")[0].id

    def refuse(*_: object) -> None:
        raise StorageUnavailable("the bucket is away")

    async def send(request_id: str) -> None:
        server.queue.claim(request_id, lease_seconds=60)
        raise WorkFailed("Traceback\nValueError: a bug")

    monkeypatch.setattr("latentsync_ray.serve.failures.commit_pending", refuse)
    asyncio.run(Dispatcher(server, send, ahead=1)._work(request_id))
    row = server.queue.get(request_id)
    assert row is not None
    assert (row.status, row.code) == (COMPLETED, 500)


def test_a_loop_outlives_an_error_of_the_storage(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def absorb() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise InputNotFound("a record went away while it was read")

    async def repeat() -> None:
        dispatcher = Dispatcher(server, lambda _: asyncio.sleep(0), ahead=1)
        monkeypatch.setattr(dispatcher._records, "absorb", absorb)
        monkeypatch.setattr("latentsync_ray.serve.dispatcher._AGAIN", 0.0)
        loop = asyncio.create_task(dispatcher._repeat(dispatcher._collect, 0.0))
        while len(calls) < 3:
            assert not loop.done()
            await asyncio.sleep(0.01)
        loop.cancel()

    asyncio.run(asyncio.wait_for(repeat(), 60))


def test_the_table_is_changed_by_one_at_a_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, met = threading.Lock(), []

    def change() -> None:
        met.append(inside.acquire(timeout=0.0))
        threading.Event().wait(0.2)
        inside.release()

    async def both() -> None:
        dispatcher = Dispatcher(server, lambda _: asyncio.sleep(0), ahead=1)
        for name in ("absorb", "compact"):
            monkeypatch.setattr(dispatcher._records, name, change)
        await asyncio.gather(dispatcher._collect(), dispatcher._clean())

    asyncio.run(both())
    assert met == [True, True]
