"""Accepted is accepted: a server that is killed in the middle does all of it after its next start, and nothing twice."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_harness import SECRET, Process, Running, free_port, make_settings, running
from serve_process import LEASE_SECONDS
from sqlalchemy import create_engine, text

from latentsync_ray.serve.failures import reclaim
from latentsync_ray.serve.worker import Worker, _Job, _Stopped
from latentsync_ray.types import GeneratedFaces, Part

APP = "fal-ai/latentsync"
HEADERS = {"Authorization": f"Key {SECRET}"}
MANY = 50


def upload(client: httpx.Client, path: Path) -> str:
    about = client.post("/rest/storage/upload/initiate", json={"file_name": path.name}).json()
    client.put(about["upload_url"], content=path.read_bytes()).raise_for_status()
    return about["file_url"]


def asked(server: Running, pair: tuple[Path, Path]) -> str:
    """The id of a request that waits."""
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=120) as client:
        urls = {"video_url": upload(client, pair[0]), "audio_url": upload(client, pair[1])}
        return client.post(f"/queue/{APP}", json=urls).json()["request_id"]


def wait_for(client: httpx.Client, ids: list[str], count: int, seconds: float) -> dict[str, Any]:
    """The results so far, once there are ``count``."""
    until = time.monotonic() + seconds
    while (done := client.get("/ready").json()["requests"]["COMPLETED"]) < count:
        assert time.monotonic() < until, f"{done} of {count} after {seconds} s"
        time.sleep(0.1)
    answers = {each: client.get(f"/queue/{APP}/requests/{each}") for each in ids}
    return {each: answer.json() for each, answer in answers.items() if answer.status_code == 200}


def survive(command: list[str], port: int, ready: str, pair: tuple[Path, Path], requests: int, database: str) -> None:
    server = Process(command, port, ready)
    try:
        with httpx.Client(base_url=server.url, headers=HEADERS, timeout=120) as client:
            asked = {"video_url": upload(client, pair[0]), "audio_url": upload(client, pair[1])}
            ids = [client.post(f"/queue/{APP}", json={**asked, "seed": n}).json()["request_id"] for n in range(requests)]
            before = wait_for(client, ids, min(3, requests // 2), 240)
    finally:
        server.kill()
    engine = create_engine(database)
    with engine.begin() as connection:  # instead of waiting for the leases to run out
        connection.execute(text(f"UPDATE requests SET lease = lease - {LEASE_SECONDS}"))
    server = Process(command, port, ready)
    try:
        with httpx.Client(base_url=server.url, headers=HEADERS, timeout=120) as client:
            after = wait_for(client, ids, requests, 400)
            assert len(after) == requests
            assert {each: after[each] for each in before} == before, "what was delivered stays as it was"
            files = [body["video"]["url"] for body in after.values()]
            assert len(set(files)) == requests
            assert all(client.head(url).status_code == 200 for url in files)
    finally:
        server.kill()
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, attempts FROM requests")).all()
        finished = connection.execute(text("SELECT COUNT(*) FROM logs WHERE message LIKE 'done:%'")).scalar_one()
    engine.dispose()
    assert {row.id for row in rows} == set(ids)
    assert finished == requests, "each is done once"
    assert all(row.attempts == 1 for row in rows if row.id in before)
    assert sum(row.attempts for row in rows) <= requests + 3, "only what was in work is begun again"


def test_killed_before_the_result_is_stored(tmp_path: Path, blink: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that it is done: that line comes with the result."""
    with running(make_settings(tmp_path / "data"), work=False) as state:
        queue = state.server.queue
        request_id = asked(state, blink)
        worker = Worker(state.server.settings, queue, state.server.files)
        with monkeypatch.context() as patch:
            patch.setattr(queue, "finish", interrupt)
            with pytest.raises(KeyboardInterrupt):
                worker.work(request_id)
        assert not [line for line in queue.logs(request_id) if line.message.startswith("done:")]
        reclaim(queue, state.server.settings)
        worker.work(request_id)
        (done,) = [line for line in queue.logs(request_id) if line.message.startswith("done:")]
        assert done.level == "INFO"
        row = queue.get(request_id)
    assert row is not None
    assert (row.code, row.attempts) == (200, 2)


def test_cancelled_as_a_part_is_finished(tmp_path: Path, blink: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it stays behind."""
    with running(make_settings(tmp_path / "data"), work=False) as state:
        queue = state.server.queue
        request_id = asked(state, blink)
        worker = Worker(state.server.settings, queue, state.server.files)
        paste = worker._lipsync.stages["paste"]

        def then_cancelled(faces: GeneratedFaces) -> Part:
            part = paste(faces)
            assert Path(part.uri).is_file()
            queue.cancel(request_id)
            return part

        def look(job: _Job) -> None:
            if not queue.renew(job.row.id, job.row.attempts, lease_seconds=60):
                raise _Stopped("cancelled")

        monkeypatch.setitem(worker._lipsync.stages, "paste", then_cancelled)
        monkeypatch.setattr(_Job, "check", look)
        assert worker.work(request_id) is None
        row = queue.get(request_id)
    assert row is not None
    assert row.code == 499
    assert not [path for path in (tmp_path / "data" / "_work" / "parts").rglob("*") if path.is_file()]


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "requests"),
    [("sqlite", 3), *(pytest.param(kind, MANY, marks=pytest.mark.slow) for kind in ("sqlite", "postgres"))],
)
def test_killed_and_started_again(
    kind: str, requests: int, request: pytest.FixtureRequest, tmp_path: Path, blink: tuple[Path, Path]
) -> None:
    port, folder = free_port(), tmp_path / "data"
    url = request.getfixturevalue("postgres") if kind == "postgres" else ""
    command = [sys.executable, "tests/serve_process.py", str(folder), str(port), *([url] if url else [])]
    survive(command, port, "ready", blink, requests, url or f"sqlite:///{folder}/queue.sqlite")


@pytest.mark.slow
def test_killed_and_started_again_on_ray(tmp_path: Path, blink: tuple[Path, Path]) -> None:
    command = [str(Path(sys.executable).parent / "latentsync-ray"), "serve", "--model", "tiny-random", "--steps", "1"]
    assert shutil.which(command[0])
    port, folder = free_port(), tmp_path / "data"
    command += ["--port", str(port), "--folder", str(folder)]
    survive(command, port, "playground", blink, MANY, f"sqlite:///{folder}/queue.sqlite")
