"""A database that does not answer for a while: neither work nor its supervision ends by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_harness import SECRET, make_settings, running, wait_until
from sqlalchemy.exc import OperationalError

from latentsync_ray.serve import dispatcher, worker
from latentsync_ray.serve.keys import Keys
from latentsync_ray.serve.queue import Queue
from latentsync_ray.serve.settings import Key, Settings, hash_key
from latentsync_ray.serve.tables import connect

APP = "fal-ai/latentsync"


class Flaky:
    """Raises as the database does when it is away, the first ``times``; then does as ``function``."""

    def __init__(self, function: Any, times: int) -> None:
        self.function, self.left = function, times

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise OperationalError("update", {}, Exception("no route to host"))
        return self.function(*arguments, **named)


def test_a_request_survives_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(dispatcher, "_AGAIN", 0.05)
    with running(make_settings(tmp_path / "data")) as state:
        queue = state.server.queue
        flaky = {name: Flaky(getattr(queue, name), 2) for name in ("waiting", "abandoned", "renew", "log")}
        for name, each in flaky.items():
            setattr(queue, name, each)
        pair = {"video_url": f"{state.url}/demo/demo.mp4", "audio_url": f"{state.url}/demo/demo.wav"}
        answer = httpx.post(f"{state.url}/{APP}", json=pair, headers=state.headers, timeout=240)
        assert answer.status_code == 200
        wait_until(lambda: not any(each.left for each in flaky.values()))
        row = queue.get(answer.headers["x-fal-request-id"])
    assert row is not None
    assert row.attempts == 1


def test_known_keys_open_during_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(connect(f"sqlite:///{tmp_path}/queue.sqlite"), Settings())
    keys.add("studio", SECRET)
    assert keys.caller(f"Key {SECRET}")
    monkeypatch.setattr(keys, "_read", Flaky(keys._read, 10**6))
    monkeypatch.setattr("latentsync_ray.serve.keys._REMEMBERED_SECONDS", 0.0)
    known = keys.caller(f"Key {SECRET}")
    assert known is not None
    assert known.name == "studio"
    assert keys.caller("Key other") is None


def test_names_of_the_settings_are_theirs_alone(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/queue.sqlite")
    Keys(engine, Settings()).add("studio", "former")
    keys = Keys(engine, Settings(keys=(Key(name="studio", sha256=hash_key(SECRET)),)))
    assert keys.caller("Key former") is None
    assert keys.caller(f"Key {SECRET}")
    assert Queue(engine).unfinished("studio") == 0
