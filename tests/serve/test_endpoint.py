"""What the protocol promises beyond what the clients' tests touch: codes, headers, limits, streams, dropped connections."""

from __future__ import annotations

import base64
import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import make_chain
from serve_harness import OTHER, Running, make_settings, running, wait_until
from serve_tricks import token_of
from sqlalchemy.exc import OperationalError

from latentsync_ray.media.provenance import provenance_of
from latentsync_ray.media.xmp import SOURCE_TYPE
from latentsync_ray.records import read_records
from latentsync_ray.serve import worker
from latentsync_ray.serve.settings import Key, Limits, hash_key

APP = "fal-ai/latentsync"
FOREVER = {"video_url": "http://127.0.0.1:9/v", "audio_url": "http://127.0.0.1:9/a"}
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def client(live: Running):
    with httpx.Client(base_url=live.url, headers=live.headers, timeout=240) as each:
        yield each


def demo(live: Running, **more: Any) -> dict[str, Any]:
    return {"video_url": f"{live.url}/demo/demo.mp4", "audio_url": f"{live.url}/demo/demo.wav", **more}


@pytest.fixture
def short(client: httpx.Client, pair: tuple[Path, Path]) -> dict[str, str]:
    """A request for a second of video, uploaded."""
    urls = []
    for path in pair:
        about = client.post("/rest/storage/upload/initiate", json={"file_name": path.name}).json()
        client.put(about["upload_url"], content=path.read_bytes()).raise_for_status()
        urls.append(about["file_url"])
    return {"video_url": urls[0], "audio_url": urls[1]}


def status_of(client: httpx.Client, request_id: str) -> dict[str, Any]:
    return client.get(f"/queue/{APP}/requests/{request_id}/status").json()


@pytest.mark.usefixtures("paused")
def test_a_request_that_waits(client: httpx.Client) -> None:
    accepted = client.post(f"/queue/{APP}", json=FOREVER)
    told = accepted.json()
    assert accepted.status_code == 200
    assert told["status"] == "IN_QUEUE"
    assert accepted.headers["x-fal-request-id"] == told["request_id"]
    for flag in ("true", "false", "1", "0"):
        status = client.get(told["status_url"], params={"logs": flag})
        assert status.status_code == 202
        assert status.json()["queue_position"] == 0
    early = client.get(told["response_url"])
    assert (early.status_code, early.json()) == (400, {"detail": "Request is still in progress"})
    behind = client.post(f"/queue/{APP}", json=FOREVER).json()
    assert status_of(client, behind["request_id"])["queue_position"] == 1
    for each in (told, behind):
        cancelled = client.put(each["cancel_url"])
        assert cancelled.status_code == 202
        assert cancelled.json() == {"status": "CANCELLATION_REQUESTED", "success": True}
    again = client.put(told["cancel_url"])
    assert (again.status_code, again.json()["status"]) == (400, "ALREADY_COMPLETED")
    result = client.get(told["response_url"])
    assert (result.status_code, result.headers["x-fal-error-type"]) == (499, "client_cancelled")
    assert status_of(client, told["request_id"])["error_type"] == "client_cancelled"


def test_what_nobody_may_see(live: Running, client: httpx.Client) -> None:
    mine = client.post(f"/queue/{APP}", json=FOREVER).json()
    for method, path in (("GET", "/status"), ("GET", ""), ("GET", "/status/stream"), ("PUT", "/cancel")):
        for request_id, headers in (("unknown", live.headers), (mine["request_id"], {"Authorization": f"Key {OTHER}"})):
            answer = httpx.request(method, f"{live.url}/queue/{APP}/requests/{request_id}{path}", headers=headers)
            assert answer.status_code == 404
            assert isinstance(answer.json()["detail"], str)
        assert httpx.request(method, f"{live.url}/queue/{APP}/requests/{mine['request_id']}{path}").status_code == 401
    assert client.post("/fal-ai/another", json=FOREVER).status_code == 404
    assert client.post(f"/{APP}/stream", json=FOREVER).status_code == 404


def test_the_status_stream(live: Running, client: httpx.Client) -> None:
    request_id = client.post(f"/queue/{APP}", json=demo(live)).json()["request_id"]
    events = []
    with client.stream("GET", f"/queue/{APP}/requests/{request_id}/status/stream", params={"logs": "1"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                assert line.isascii()
                events.append(json.loads(line.removeprefix("data: ")))
    assert events[-1]["status"] == "COMPLETED"
    told = [log["message"] for event in events for log in event.get("logs") or ()]
    assert len(told) == len(set(told)), "a line is sent once"
    polled = client.get(f"/queue/{APP}/requests/{request_id}/status", params={"logs": "true"}).json()["logs"]
    assert [log["message"] for log in polled] == told, "and none is left out"
    assert "cost $0.2" in told[-1]


def test_a_dropped_connection_cancels_the_job(live: Running, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_BEAT_SECONDS", 0.05)  # or a quick machine is done before it looks
    before = len(live.sent)
    with asking(live, demo(live)):
        wait_until(lambda: len(live.sent) > before)
    request_id = live.sent[-1]
    wait_until(lambda: status_of(client, request_id)["status"] == "COMPLETED")
    assert live.server.queue.get(request_id).code == 499  # pyright: ignore[reportOptionalMemberAccess]


@contextmanager
def asking(live: Running, asked: dict[str, Any], **headers: str) -> Iterator[None]:
    """A client that has sent a request, and drops its connection."""
    body = json.dumps(asked).encode()
    fields = {"Host": "here", "Content-Length": str(len(body)), **live.headers, **headers}
    head = [f"POST /{APP} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    with socket.create_connection(("127.0.0.1", live.port)) as connection:
        connection.sendall("\r\n".join(head).encode() + body)
        yield


@pytest.mark.usefixtures("paused")
def test_a_start_deadline(client: httpx.Client) -> None:
    answer = client.post(f"/{APP}", json=FOREVER, headers={"X-Fal-Request-Timeout": "1.2"})
    assert answer.status_code == 504
    assert answer.headers["x-fal-request-timeout-type"] == "user"
    assert answer.json()["error_type"] == "request_timeout"
    for wrong in ("soon", "-1", "nan"):
        answer = client.post(f"/{APP}", json=FOREVER, headers={"X-Fal-Request-Timeout": wrong})
        assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")


@pytest.mark.usefixtures("paused")
def test_the_same_idempotency_key(client: httpx.Client) -> None:
    ids = {
        client.post(f"/queue/{APP}", json=FOREVER, headers={"Idempotency-Key": "night-7"}).json()["request_id"]
        for _ in range(3)
    }
    assert len(ids) == 1
    client.put(f"/queue/{APP}/requests/{ids.pop()}/cancel")


@pytest.mark.usefixtures("paused")
def test_a_call_that_can_be_repeated_is_not_cancelled(live: Running, client: httpx.Client, short: dict[str, str]) -> None:
    again = {"Idempotency-Key": "morning-8"}
    with asking(live, short, **again):
        wait_until(lambda: live.server.queue.waiting(1))
    live.paused.clear()
    first, second = (client.post(f"/{APP}", json=short, headers=again) for _ in range(2))
    assert first.status_code == 200
    assert first.json() == second.json()


def test_a_database_that_does_not_answer(live: Running, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise OperationalError("select", {}, Exception("no route to host"))

    with monkeypatch.context() as patch:
        patch.setattr(live.server.queue, "get", fail)
        patch.setattr(live.server.queue, "states", fail)
        for path in ("", "/status"):
            answer = client.get(f"/queue/{APP}/requests/{uuid.uuid4()}{path}", headers={"Origin": "https://a.example"})
            assert (answer.status_code, answer.json()["error_type"]) == (500, "internal_error")
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "route" not in answer.text
    assert client.get(f"/queue/{APP}/requests/{uuid.uuid4()}/status").status_code == 404


def test_browsers_may_ask(live: Running) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-a"}
    for path in (f"/queue/{APP}", "/api/fal/proxy", "/uploads/x", "/rest/storage/upload/initiate"):
        answer = httpx.options(live.url + path, headers=asked)
        assert answer.status_code == 200, path
        assert answer.headers["access-control-allow-origin"] == "*"
    answer = httpx.get(f"{live.url}/health", headers={"Origin": "https://a.example"})
    assert "x-fal-request-id" in answer.headers["access-control-expose-headers"].lower()


def test_fals_host_names(live: Running) -> None:
    for host, path in (
        ("queue.fal.run", f"/{APP}/requests/unknown/status"),
        ("rest.fal.ai", "/.well-known/jwks.json"),
        ("fal.run", "/health"),
    ):
        answer = httpx.get(live.url + path, headers={**live.headers, "Host": host})
        assert answer.status_code in (200, 404)
        assert "Not Found" not in answer.text, host


def test_urls_are_made_as_the_client_reaches_us(live: Running, client: httpx.Client) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "dub.example"}
    told = client.post(f"/queue/{APP}", json=FOREVER, headers=forwarded).json()
    assert told["status_url"].startswith(f"https://dub.example/queue/{APP}/requests/")
    assert "?" not in told["status_url"]


def test_the_description(client: httpx.Client) -> None:
    told = client.get("/api/openapi/queue/openapi.json", params={"endpoint_id": APP}).json()
    sent = told["paths"][f"/queue/{APP}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert sent["required"] == ["video_url", "audio_url"]
    assert set(sent["properties"]) == {"video_url", "audio_url", "guidance_scale", "seed", "loop_mode"}
    assert client.get("/api/openapi/queue/openapi.json", params={"endpoint_id": "other"}).status_code == 404


def test_bodies_that_are_no_input(client: httpx.Client) -> None:
    for body in (
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"video_url": 7, "audio_url": null}',
        b'{"guidance_scale": NaN}',
        b"\xff\xfe",
        b"[" * 9999,
        b'{"seed": "\\ud800"}',
    ):
        answer = client.post(f"/{APP}", content=body)
        assert answer.status_code == 422, body
        assert answer.json()["detail"][0]["loc"][0] == "body"
    long = "data:video/mp4;base64,!" + "A" * 10_000
    answer = client.post(f"/{APP}", json={"video_url": long, "audio_url": long, "loop_mode": "x" * 5000})
    assert answer.status_code == 422
    assert len(answer.content) < 3000, "errors do not send whole files back"


def test_limits_of_a_key(tmp_path: Path) -> None:
    limits = Limits(queued_requests=2, inline_bytes=1000, output_seconds=5)
    key = Key(name="small", sha256=hash_key("small"), limits=limits)
    with running(make_settings(tmp_path / "data", keys=(key,))) as state:
        headers = {"Authorization": "Key small"}
        too_long = httpx.post(f"{state.url}/{APP}", json=demo(state), headers=headers, timeout=240)
        assert too_long.status_code == 422
        (detail,) = too_long.json()["detail"]
        assert (detail["loc"][-1], detail["type"]) == ("audio_url", "too_large")
        state.paused.set()
        codes = [httpx.post(f"{state.url}/queue/{APP}", json=FOREVER, headers=headers).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        state.paused.clear()
        big = httpx.post(f"{state.url}/queue/{APP}", content=b"x" * 2000, headers=headers)
        assert big.status_code == 413


def test_the_longest_time(tmp_path: Path) -> None:
    with running(make_settings(tmp_path / "data", maximum_seconds=0.2)) as state:
        answer = httpx.post(f"{state.url}/{APP}", json=demo(state), headers=state.headers, timeout=240)
    assert answer.status_code == 504
    assert "longer than 0.2 s" in answer.json()["detail"]


def test_records_with_costs(live: Running, client: httpx.Client, short: dict[str, str]) -> None:
    request_id = client.post(f"/{APP}", json=short).headers["x-fal-request-id"]
    folder = live.server.settings.folder

    def rows() -> dict[str, dict[str, Any]]:
        written = list(Path(folder, "metadata").glob("*.parquet"))
        return {row["clip_id"]: row for row in read_records(folder).to_pylist()} if written else {}

    wait_until(lambda: request_id in rows())
    row = rows()[request_id]
    assert (row["status"], row["cost"], row["frames"]) == ("ok", 0.2, 25)
    assert row["video"] == f"token:{token_of(short['video_url'])}"


def test_results_are_marked_and_signed(blink: tuple[Path, Path], tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", signing=make_chain(tmp_path / "chain").signing)
    with running(settings) as server, httpx.Client(base_url=server.url, headers=server.headers, timeout=240) as client:
        inputs = [
            f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
            for path, kind in zip(blink, ("video/mp4", "audio/wav"), strict=True)
        ]
        answer = client.post(f"/{APP}", json=dict(zip(("video_url", "audio_url"), inputs, strict=True)))
        content = client.get(answer.json()["video"]["url"]).content
        server.settle()
    file = tmp_path / "result.mp4"
    file.write_bytes(content)
    told = provenance_of(file)
    assert (told["credentials"], told["problems"], told["signed_by"]) == ("Valid", [], "Test Studio")
    assert told["xmp"]["Iptc4xmpExt:DigitalSourceType"] == SOURCE_TYPE
    private = (OTHER, str(settings.folder), "tester", server.headers["Authorization"].split()[-1])
    assert not [each for each in private if each.encode() in content]


def test_headers_that_arrive_slowly_block_nobody(live: Running, client: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", live.port)) as slow:
        slow.sendall(b"POST /queue/fal-ai/latentsync HTTP/1.1\r\n")
        assert client.get("/health", timeout=60).status_code == 200


def test_many_may_wait(live: Running, client: httpx.Client, short: dict[str, str]) -> None:
    answers: list[int] = []

    def call() -> None:
        answers.append(httpx.post(f"{live.url}/{APP}", json=short, headers=live.headers, timeout=240).status_code)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert client.get("/ready").json()["status"] == "ready"
    for thread in threads:
        thread.join()
    assert answers == [200] * 6


def test_a_worker_that_lost_its_request_leaves_the_parts_to_the_next(tmp_path: Path) -> None:
    recipe = {"model": "tiny-random", "steps": 10, "segment_frames": 48}  # longer than a worker takes to notice
    with running(make_settings(tmp_path / "data", recipe=recipe)) as state:
        queue = state.server.queue
        told = httpx.post(f"{state.url}/queue/{APP}", json=demo(state), headers=state.headers).json()
        folder = Path(state.server.settings.folder) / "_work" / "parts" / told["request_id"]
        wait_until(lambda: list(folder.rglob("*.json")))
        queue.release(told["request_id"], 1, attempts=3, reason="taken for dead")
        wait_until(lambda: queue.counts()["COMPLETED"])
        row = queue.get(told["request_id"])
    assert row is not None
    assert (row.code, row.attempts) == (200, 2)
    lines = [line.message for line in queue.logs(row.id)]
    again = max(number for number, line in enumerate(lines) if line.startswith("dubbing"))
    made = [int(line.split()[1]) for line in lines[again:] if line.startswith("lip-synced")]
    assert made[0] in (48, 96, 144, 154), "finished parts were not made again"
    assert made[-1] == 154
