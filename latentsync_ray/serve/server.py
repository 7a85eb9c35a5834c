"""What every route needs: settings, queue, files and keys; and the acceptance of a request, which two routes share."""

from __future__ import annotations

import dataclasses as dc
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from fastapi import Depends, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from latentsync_ray.serve.fetch import FetchError, fetch, usable_url
from latentsync_ray.serve.files import Files
from latentsync_ray.serve.keys import Keys
from latentsync_ray.serve.protocol import InvalidInput, LatentSyncInput, input_error
from latentsync_ray.serve.queue import Queue
from latentsync_ray.serve.settings import Key, Limits, Settings
from latentsync_ray.serve.status import StatusPoller
from latentsync_ray.serve.tables import RequestRow, connect
from latentsync_ray.serve.urls import TOKEN_SCHEME, base_url, localise

__all__ = [
    "BadRequest",
    "Base",
    "Caller",
    "Overloaded",
    "Server",
    "ServerState",
    "base_of",
    "caller_of",
    "server_of",
]


class Overloaded(Exception):
    """A key has as many unfinished requests as it may."""


class BadRequest(Exception):
    """A header or query parameter cannot be used."""


@dc.dataclass(frozen=True, kw_only=True)
class Server:
    """The parts of a server that its processes share by way of database and storage."""

    settings: Settings
    queue: Queue
    status: StatusPoller
    files: Files
    keys: Keys

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Connect to what the settings name. Raises ConfigError."""
        engine = connect(settings.database_url)
        queue = Queue(engine)
        return cls(
            settings=settings,
            queue=queue,
            status=StatusPoller(queue),
            files=Files(engine, settings.folder),
            keys=Keys(engine, settings),
        )

    def accept(
        self, key: Key, asked: LatentSyncInput, headers: Mapping[str, str], *, base: str, webhook: str | None = None
    ) -> RequestRow:
        """Put a request into the queue, or find it there. Raises Overloaded, BadRequest or InvalidInput."""
        again = (headers.get("idempotency-key") or headers.get("x-fal-idempotency-key") or "")[:200] or None
        before = self.queue.same(key.name, again) if again else None
        if before:
            return before
        if self.queue.unfinished(key.name) >= key.limits.queued_requests:
            raise Overloaded(f"{key.limits.queued_requests} requests of this key are unfinished; wait for some")
        if webhook and (usable_url(webhook) or webhook.startswith("data:")):
            raise BadRequest(f"fal_webhook cannot be used: {usable_url(webhook) or 'it has to be http or https'}")
        arguments = asked.model_dump()
        for name in ("video_url", "audio_url"):
            arguments[name] = self._kept(key, name, localise(arguments[name], (base, self.settings.public_url or base)))
        arguments["seed"] = secrets.randbelow(2**31) if asked.seed is None else asked.seed % 2**63
        row, _ = self.queue.submit(
            key.name,
            arguments,
            base=base,
            priority=1 if headers.get("x-fal-queue-priority") == "low" else 0,
            start_before=_start_before(headers.get("x-fal-request-timeout")),
            webhook=webhook,
            idempotency_key=again,
        )
        return row

    def room(self, key_name: str, limits: Limits) -> int:
        """Bytes that a key may still store. Answers 403 when there are none."""
        used = self.files.used(key_name)
        if used >= limits.stored_bytes:
            kept = f"{self.settings.result_seconds / 3600:.0f} hours"
            raise HTTPException(403, f"this key already stores {used / 1e9:.1f} GB; uploads go after {kept}")
        return limits.stored_bytes - used

    def _kept(self, key: Key, name: str, url: str) -> str:
        """``url``; the content of an inline one becomes a file, so that the queue stays small."""
        if not url.startswith("data:"):
            return url
        kind = url[5 : url.index(",")].partition(";")[0]
        room = min(key.limits.input_bytes, self.room(key.name, key.limits))
        row = self.files.reserve(key.name, None, kind)
        with tempfile.TemporaryDirectory(prefix="latentsync-") as work:
            local = Path(work) / "inline"
            try:
                fetch(url, local, network=self.settings.network, max_bytes=room)
            except FetchError as error:
                raise InvalidInput(input_error(name, "file_download_error", str(error), url)["detail"]) from error
            self.files.store(row, local)
        return TOKEN_SCHEME + row.token


def _start_before(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise BadRequest(f"X-Fal-Request-Timeout is {header[:40]!r}; it has to be a number of seconds")
    return time.time() + seconds


# These three are asked at every status call, of which there are many: as coroutines they need no thread.
async def server_of(request: Request) -> Server:
    """The server that a request came to."""
    return request.app.state.server


async def base_of(request: Request) -> str:
    """How the client reaches this server."""
    return base_url(request.app.state.server.settings.public_url, request.scope["scheme"], request.headers)


async def caller_of(request: Request) -> Key:
    """Whose request it is. Answers 401 when that cannot be told."""
    server: Server = request.app.state.server
    if server.keys.old:
        await run_in_threadpool(server.keys.refresh)
    uploading = request.scope["path"].startswith(("/cdn/", "/files/"))  # all that upload tokens are good for
    key = server.keys.caller(request.headers.get("authorization"), uploading=uploading)
    if key is None and request.scope.get("proxied") and "authorization" not in request.headers:
        key = server.keys.named(server.settings.browser_key)
    if key is None:
        raise HTTPException(401, "unknown or missing key; send the header: Authorization: Key YOUR_KEY")
    return key


ServerState = Annotated[Server, Depends(server_of)]
Base = Annotated[str, Depends(base_of)]
Caller = Annotated[Key, Depends(caller_of)]
