"""Object stores on this machine: Google's and Amazon's, as their emulators speak them, and who gives out Google's tokens."""

from __future__ import annotations

import http.server
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["FORBIDDEN", "Store", "gcs_login", "gs_store", "s3_store", "tokens"]

ACCESS_KEY, SECRET_KEY = "AKIAD0NTSHOWME", "S3cr3t/K3y+of=the%20store"
TOKENS = ("ya29.F1rstAcc3ss", "ya29.S3condAcc3ss", "ya29.Th1rdAcc3ss")
FORBIDDEN = [ACCESS_KEY, SECRET_KEY, urllib.parse.quote(SECRET_KEY, safe=""), *TOKENS]
"""What may be seen nowhere; ``gcs_login`` adds its private key."""


@dataclass(frozen=True)
class Store:
    """A bucket."""

    root: str
    options: dict[str, dict[str, Any]]
    """What a job needs to use it."""


class _Tokens(http.server.BaseHTTPRequestHandler):
    """Gives each who asks the next token."""

    given = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = {"access_token": TOKENS[_Tokens.given % len(TOKENS)], "expires_in": 3600, "token_type": "Bearer"}
        _Tokens.given += 1
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def tokens() -> Iterator[str]:
    """Where logins get their tokens."""
    _Tokens.given = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Tokens) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()


def gcs_login(token_uri: str) -> dict[str, str]:
    """A service account's key, as Google gives it out."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    FORBIDDEN.extend(line for line in text.splitlines() if len(line) == 64 and line not in FORBIDDEN)
    return {
        "type": "service_account",
        "private_key": text,
        "client_email": "dubbing@films.iam.example.com",
        "token_uri": token_uri,
    }


@contextmanager
def gs_store() -> Iterator[Store]:
    """Google's, with a login that is asked for a token before the first request."""
    _need("gcsfs", "gcp_storage_emulator")
    with tokens() as token_uri, _served("gcp_storage_emulator", "start", "-H", "127.0.0.1", "-M", "-q", "--port") as url:
        _ask(f"{url}/storage/v1/b?project=films", {"name": "films"})
        options = {"endpoint_url": url, "project": "films", "token": gcs_login(token_uri)}
        yield Store("gs://films", {"gs": options})


@contextmanager
def s3_store() -> Iterator[Store]:
    """Amazon's."""
    _need("s3fs", "moto", "flask", "flask_cors")
    with _served("moto.server", "-H", "127.0.0.1", "-p") as url:
        urllib.request.urlopen(urllib.request.Request(f"{url}/films", method="PUT")).close()
        options = {"endpoint_url": url, "key": ACCESS_KEY, "secret": SECRET_KEY}
        yield Store("s3://films", {"s3": options | {"client_kwargs": {"region_name": "us-east-1"}}})


def _need(*modules: str) -> None:
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}, of the extras gcs, s3 and dev")


@contextmanager
def _served(module: str, *arguments: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", module, *arguments, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except urllib.error.HTTPError:
                break  # it speaks
            except OSError:
                pass
            assert process.poll() is None, f"{module} ended"
            assert time.monotonic() < until, f"{module} does not answer"
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def _ask(url: str, content: dict[str, str]) -> None:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request).close()
