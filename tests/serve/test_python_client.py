"""The real ``fal-client`` against a server: the page's example, errors, uploads, cancelling."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from serve_harness import SECRET, Running, wait_until

from latentsync_ray.serve import worker

# The client leaves its connections to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

APP = "fal-ai/latentsync"


def arguments(live: Running, fal: Any, pair: tuple[Path, Path], **more: Any) -> dict[str, Any]:
    return {"video_url": fal.upload_file(pair[0]), "audio_url": fal.upload_file(pair[1]), **more}


def frames(content: bytes, folder: Path) -> int:
    (folder / "got.mp4").write_bytes(content)
    with av.open(str(folder / "got.mp4")) as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}
        return sum(1 for _ in container.decode(video=0))


def test_the_pages_example(live: Running, fal: Any, tmp_path: Path) -> None:
    lines, states = [], []

    def on_queue_update(update: Any) -> None:
        states.append(type(update).__name__)
        if isinstance(update, fal.InProgress):
            lines.extend(log["message"] for log in update.logs)

    result = fal.subscribe(
        APP,
        arguments={"video_url": f"{live.url}/demo/demo.mp4", "audio_url": f"{live.url}/demo/demo.wav"},
        with_logs=True,
        on_queue_update=on_queue_update,
    )
    video = result["video"]
    content = httpx.get(video["url"]).content
    assert frames(content, tmp_path) == 154
    assert video["content_type"] == "video/mp4"
    assert video["file_size"] == len(content)
    assert video["file_name"].endswith(".mp4")
    assert states[-1] == "Completed"
    assert any("of 154 frames" in line for line in lines)


def test_seeds(live: Running, fal: Any, pair: tuple[Path, Path]) -> None:
    asked = arguments(live, fal, pair)

    def made(**more: Any) -> tuple[bytes, str]:
        request_id = fal.submit(APP, arguments={**asked, **more}).request_id
        url = fal.result(APP, request_id)["video"]["url"]
        answer = httpx.get(f"{live.url}/queue/{APP}/requests/{request_id}", headers=live.headers)
        return httpx.get(url).content, answer.headers["x-latentsync-seed"]

    beside = fal.submit(APP, arguments={**asked, "seed": 1})
    first, second = made(seed=7), made(seed=7)
    assert first == second
    assert first[1] == "7"
    assert httpx.get(beside.get()["video"]["url"]).content != first[0]
    one, other = made(), made()
    assert one[0] != other[0]
    assert made(seed=int(one[1])) == one, "the seed that is told makes the same clip again"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"video_url": None}, "video_url"),
        ({"guidance_scale": 0.5}, "guidance_scale"),
        ({"guidance_scale": 3}, "guidance_scale"),
        ({"loop_mode": "bounce"}, "loop_mode"),
        ({"audio_url": "not a url"}, "audio_url"),
        ({"video_url": "http://127.0.0.1:9/nothing.mp4"}, "video_url"),
    ],
)
def test_wrong_input(live: Running, fal: Any, pair: tuple[Path, Path], wrong: dict[str, Any], field: str) -> None:
    asked = {**arguments(live, fal, pair), **wrong}
    asked = {name: value for name, value in asked.items() if value is not None}
    with pytest.raises(fal.client.FalClientHTTPError) as raised:
        fal.subscribe(APP, arguments=asked)
    assert raised.value.status_code == 422
    detail = raised.value.response.json()["detail"]
    assert [each["loc"][-1] for each in detail] == [field]
    assert all(len(each["msg"]) > 10 for each in detail)


@pytest.mark.parametrize("code", ["unreadable_video", "no_face"])
def test_videos_that_cannot_be_dubbed(
    live: Running, fal: Any, pair: tuple[Path, Path], unfit: dict[str, Path], code: str
) -> None:
    with pytest.raises(fal.client.FalClientHTTPError) as raised:
        fal.subscribe(APP, arguments={"video_url": fal.upload_file(unfit[code]), "audio_url": fal.upload_file(pair[1])})
    (detail,) = raised.value.response.json()["detail"]
    assert (detail["loc"], detail["type"]) == (["body", "video_url"], code)
    assert "/tmp" not in detail["msg"]


def test_a_wrong_key(live: Running, fal: Any) -> None:
    with pytest.raises(fal.client.FalClientHTTPError) as raised:
        fal.SyncClient(key="wrong").submit(APP, arguments={})
    assert raised.value.status_code == 401


@pytest.mark.usefixtures("paused")
def test_cancel_while_queued(live: Running, fal: Any, pair: tuple[Path, Path]) -> None:
    handle = fal.submit(APP, arguments=arguments(live, fal, pair))
    handle.cancel()
    with pytest.raises(fal.client.FalClientHTTPError) as raised:
        handle.get()
    assert raised.value.status_code == 499


def test_cancel_while_running(live: Running, fal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_BEAT_SECONDS", 0.05)  # or a quick machine is done before it looks
    long = {"video_url": f"{live.url}/demo/demo.mp4", "audio_url": f"{live.url}/demo/demo.wav"}
    handle = fal.submit(APP, arguments=long)
    while not any("lip-synced" in log["message"] for log in getattr(handle.status(with_logs=True), "logs", None) or ()):
        time.sleep(0.05)
    handle.cancel()
    with pytest.raises(fal.client.FalClientHTTPError) as raised:
        handle.get()
    assert raised.value.status_code == 499
    done = [line.message for line in live.server.queue.logs(handle.request_id) if "lip-synced" in line.message]
    assert "154 of" not in done[-1]
    folder = Path(live.server.settings.folder)
    wait_until(lambda: not [path for path in folder.rglob("*") if handle.request_id in str(path)])


@pytest.mark.usefixtures("paused")
def test_a_timeout_of_the_client_cancels(live: Running, fal: Any, pair: tuple[Path, Path]) -> None:
    with pytest.raises(fal.client.FalClientTimeoutError) as raised:
        fal.subscribe(APP, arguments=arguments(live, fal, pair), client_timeout=3)
    row = live.server.queue.get(raised.value.request_id)
    assert row is not None
    assert row.code in (499, 504)


def test_the_async_client(live: Running, fal: Any, pair: tuple[Path, Path]) -> None:
    async def go() -> Any:
        client = fal.AsyncClient(key=SECRET)
        asked = {"video_url": await client.upload_file(pair[0]), "audio_url": await client.upload_file(pair[1])}
        return await client.subscribe(APP, arguments=asked)

    assert httpx.head(asyncio.run(go())["video"]["url"]).status_code == 200


def test_inline_inputs(live: Running, fal: Any, pair: tuple[Path, Path]) -> None:
    asked = {"video_url": fal.encode_file(pair[0]), "audio_url": fal.encode_file(pair[1]), "seed": 1}
    result = fal.run(APP, arguments=asked)
    assert result["video"]["file_size"] > 1000
    assert fal.run(APP, arguments=arguments(live, fal, pair, seed=1))["video"]["file_size"] == result["video"]["file_size"]
