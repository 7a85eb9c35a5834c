"""Results delivered by webhook: signed, repeated until somebody takes them, and verified as a receiver would."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from serve_harness import Running, wait_until

APP = "fal-ai/latentsync"
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Receiver(ThreadingHTTPServer):
    """Refuses the first ``refusals`` deliveries and keeps all of them."""

    def __init__(self, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refusals, self.got = refusals, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?for=me"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, dict(self.headers.items()), body))
        self.send_response(200 if len(self.server.got) > self.server.refusals else 500)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver(refusals=2)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def verify(live: Running, headers: dict[str, str], body: bytes) -> None:
    """As fal's documentation tells receivers to. Raises InvalidSignature."""
    names = ("Request-Id", "User-Id", "Timestamp")
    lower = {name.lower(): value for name, value in headers.items()}
    signed = [lower[f"x-fal-webhook-{name.lower()}"] for name in names]
    assert abs(time.time() - int(signed[2])) < 300
    message = "\n".join([*signed, hashlib.sha256(body).hexdigest()]).encode()
    (key,) = httpx.get(f"{live.url}/rest/.well-known/jwks.json").json()["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=="))
    public.verify(bytes.fromhex(lower["x-fal-webhook-signature"]), message)


def test_delivered_after_two_failures(live: Running, fal: Any, pair: tuple[Path, Path], receiver: Receiver) -> None:
    asked = {"video_url": fal.upload_file(pair[0]), "audio_url": fal.upload_file(pair[1])}
    handle = fal.submit(APP, arguments=asked, webhook_url=receiver.url)
    result = handle.get()
    wait_until(lambda: len(receiver.got) >= 3)
    time.sleep(1.5)
    assert len(receiver.got) == 3, "taken, and so not sent again"
    for path, headers, body in receiver.got:
        assert path == "/hook?for=me"
        verify(live, headers, body)
        told = json.loads(body)
        assert told["request_id"] == told["gateway_request_id"] == handle.request_id
        assert (told["status"], told["error"], told["payload"]) == ("OK", None, result)
    with pytest.raises(InvalidSignature):
        verify(live, receiver.got[0][1], receiver.got[0][2] + b" ")
    lines = [line.message for line in live.server.queue.logs(handle.request_id) if "webhook" in line.message]
    assert len(lines) == 3
    assert "delivered at attempt 3" in lines[-1]


def test_failures_are_told_too(live: Running, fal: Any, pair: tuple[Path, Path], receiver: Receiver) -> None:
    receiver.refusals = 0
    asked = {"video_url": fal.upload_file(pair[1]), "audio_url": fal.upload_file(pair[1])}
    fal.submit(APP, arguments=asked, webhook_url=receiver.url)
    wait_until(lambda: receiver.got)
    told = json.loads(receiver.got[0][2])
    assert (told["status"], told["error"]) == ("ERROR", "Invalid status code: 422")
    assert told["payload"]["detail"][0]["loc"] == ["body", "video_url"]


def test_a_webhook_into_the_private_network_is_refused(live: Running) -> None:
    body = {"video_url": "http://a.example/v", "audio_url": "http://a.example/a"}
    answer = httpx.post(
        f"{live.url}/queue/{APP}", params={"fal_webhook": "file:///etc/passwd"}, json=body, headers=live.headers
    )
    assert answer.status_code == 400
    assert "fal_webhook" in answer.json()["detail"]
