"""Signed addresses in requests: the server opens them, and tells nobody what they held."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_harness import Running, make_settings, running
from serve_tricks import Scripted, reply, scripted
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from latentsync_ray.serve import web
from latentsync_ray.serve.dispatcher import Dispatcher, WorkFailed
from latentsync_ray.serve.fetch import FetchError, usable_url
from latentsync_ray.serve.protocol import input_error
from latentsync_ray.serve.tables import connect

APP = "fal-ai/latentsync"
SIGNED = "?versionId=3&X-Amz-Credential=S3CRET1&X-Amz-Signature=S3CRET2"


@pytest.fixture
def site(blink: tuple[Path, Path]) -> Iterator[Scripted]:
    with scripted() as server:
        for path in blink:
            server.answers[f"/{path.name}{SIGNED}"] = reply(path.read_bytes())
        server.answers[f"/text.mp4{SIGNED}"] = reply(b"this is no video\n" * 100)
        yield server


def test_only_the_request_itself_keeps_a_signature(
    tmp_path: Path, site: Scripted, blink: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "latentsync_ray")
    folder = tmp_path / "data"
    answers: list[httpx.Response] = []
    with running(make_settings(folder)) as state:
        for video in (blink[0].name, "text.mp4", "missing.mp4"):
            urls = {f"{name}_url": f"{site.url}/{each}{SIGNED}" for name, each in (("video", video), ("audio", blink[1].name))}
            answers.append(httpx.post(f"{state.url}/{APP}", json=urls, headers=state.headers, timeout=60))
            status = f"{state.url}/queue/{APP}/requests/{answers[-1].headers['x-fal-request-id']}/status?logs=1"
            answers.append(httpx.get(status, headers=state.headers))
        engine = connect(state.server.settings.database_url)
        with engine.connect() as database:
            rows = [dict(row) for row in database.execute(text("SELECT * FROM requests")).mappings()]
            lines = [row.message for row in database.execute(text("SELECT message FROM logs"))]
        engine.dispose()
    assert [answer.status_code for answer in answers[::2]] == [200, 422, 422]
    assert f"{site.url}/text.mp4?versionId=3&***" in answers[2].text
    assert all(row.pop("arguments").count("S3CRET2") == 2 for row in rows), "the work needs them"
    files = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith("queue.sqlite")
    }
    assert any(path.suffix == ".json" or path.suffix == ".parquet" for path in files)
    told: list[Any] = [rows, lines, [answer.text for answer in answers], caplog.text]
    assert "S3CRET" not in json.dumps(told, default=str)
    assert not [path for path, content in files.items() if b"S3CRET" in content or "S3CRET" in str(path)]


def test_errors_repeat_what_was_sent_without_its_secrets() -> None:
    body = input_error("video_url", "url_parsing", "no", f"https://me:S3CRET0@h.example/a.mp4{SIGNED}")
    assert body["detail"][0]["input"] == "https://***@h.example/a.mp4?versionId=3&***"
    assert "S3CRET" not in str(FetchError(f"redirected to https://h.example/{SIGNED}"))
    for odd in ("https://me:S3CRET0/x@h.example/", "https://me:S3CRET0℀@h.example/"):
        assert usable_url(odd)
        assert "S3CRET" not in usable_url(odd)


def test_errors_of_the_database_do_not_quote_requests(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/queue.sqlite")
    with engine.connect() as database, pytest.raises(SQLAlchemyError) as caught:
        database.execute(text("SELECT * FROM nothing WHERE x = :url"), {"url": f"https://h.example/a.mp4{SIGNED}"})
    assert "S3CRET" not in str(caught.value)
    engine.dispose()


def test_bugs_are_logged_without_secrets(
    live: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def send(request_id: str) -> None:
        raise WorkFailed(f"Traceback\nValueError: no port in https://h.example/a.mp4{SIGNED}")

    def broken(*_: Any) -> None:
        raise OSError(f"cannot read https://h.example/b.mp4{SIGNED}")

    asyncio.run(Dispatcher(live.server, send, ahead=1)._work("0" * 36))
    monkeypatch.setattr(live.server.queue, "get", broken)
    assert httpx.get(f"{live.url}/queue/{APP}/requests/{'0' * 36}", headers=live.headers).status_code == 500
    assert "ValueError: no port in https://h.example/a.mp4?versionId=3&***" in caplog.text
    assert "OSError: cannot read https://h.example/b.mp4?versionId=3&***" in caplog.text
    assert "S3CRET" not in caplog.text


def test_uvicorns_tracebacks_show_no_secret() -> None:
    try:
        raise ValueError(f"https://h.example/a.mp4{SIGNED}")
    except ValueError:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "Exception in ASGI application", (), sys.exc_info())
    assert web._without_secrets(record)
    line = logging.Formatter().format(record)
    assert "ValueError: https://h.example/a.mp4?versionId=3&***" in line
    assert "S3CRET" not in line
