"""Hands waiting requests to workers, and minds everything that has a time: leases, deadlines, webhooks, cleaning.

One of it per database. It may be killed at any moment: what it knows is in the database. Knows no Ray: how a request
reaches a worker is a function.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from sqlalchemy.exc import SQLAlchemyError

from latentsync_ray import redact
from latentsync_ray.errors import LatentSyncError
from latentsync_ray.records import Records
from latentsync_ray.serve.failures import put_back, record_failure
from latentsync_ray.serve.queue import Outcome
from latentsync_ray.serve.server import Server
from latentsync_ray.serve.tables import IN_PROGRESS
from latentsync_ray.serve.webhooks import WebhookSender
from latentsync_ray.stages.failures import bug

__all__ = ["Dispatcher", "WorkFailed", "WorkerGone"]

_LOG = logging.getLogger(__name__)
_POLL = 0.1
"""Seconds between two looks for waiting requests: what an idle server adds to a request's time."""
_AGAIN = 1.0
"""Seconds to wait when database or storage do not answer."""
_MINUTE = 60.0


class WorkerGone(Exception):
    """The worker ended before the request did."""


class WorkFailed(Exception):
    """The worker raised what is no fault of the request; the message, a traceback, is for the operator."""

    @property
    def reason(self) -> str:
        """The line that says what it was."""
        return next((line for line in reversed(str(self).splitlines()) if line.strip()), "no details")


class Dispatcher:
    """``run()`` for as long as the server lives; ``send(request_id)`` works on a request and raises the errors above.

    At most ``ahead`` requests are with workers or on their way there: enough to show how many workers are wanted, and not more,
    so that the queue keeps its order.
    """

    def __init__(self, server: Server, send: Callable[[str], Awaitable[None]], *, ahead: int) -> None:
        self._server, self._send, self._ahead = server, send, ahead
        self._webhooks = WebhookSender(server.queue, server.settings, server.keys.signer())
        self._records, self._recording = Records(server.settings.folder, mixed_recipes=True), asyncio.Lock()
        self._sent: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for job, every in (
                (self._dispatch, _POLL),
                (self._watch, 1.0),
                (self._deliver, 1.0),
                (self._collect, _MINUTE / 6),
                (self._clean, 10 * _MINUTE),
            ):
                tasks.create_task(self._repeat(job, every))

    async def _repeat(self, job: Callable[[], Awaitable[None]], every: float) -> None:
        while True:
            try:
                await job()
            except (SQLAlchemyError, LatentSyncError) as error:
                _LOG.warning("trying again after %s: %s", type(error).__name__, redact.text(str(error)))
                await asyncio.sleep(_AGAIN)
            await asyncio.sleep(every)

    async def _dispatch(self) -> None:
        room = self._ahead - len(self._sent)
        if room <= 0:
            return
        waiting = await asyncio.to_thread(self._server.queue.waiting, self._ahead + len(self._sent))
        for request_id in [each for each in waiting if each not in self._sent][:room]:
            task = asyncio.create_task(self._work(request_id))
            self._sent[request_id] = task
            task.add_done_callback(lambda _, request_id=request_id: self._sent.pop(request_id, None))

    async def _work(self, request_id: str) -> None:
        queue = self._server.queue
        try:
            await self._send(request_id)
        except WorkerGone as error:
            row = await asyncio.to_thread(queue.get, request_id)
            if row and row.status == IN_PROGRESS:
                await asyncio.to_thread(put_back, row, queue, self._server.settings, reason=str(error))
        except WorkFailed as error:
            _LOG.error("request %s: %s", request_id, redact.text(str(error)))
            row = await asyncio.to_thread(queue.get, request_id)
            if row and row.status == IN_PROGRESS:
                failure = Outcome.failure(500, "internal_error", "the server failed at this request; its log says why")
                await asyncio.to_thread(record_failure, row, self._server.settings, bug(error.reason, str(error)))
                await asyncio.to_thread(queue.finish, request_id, failure, attempt=row.attempts)

    async def _watch(self) -> None:
        queue = self._server.queue
        await asyncio.to_thread(queue.expire)
        for request_id, attempt in await asyncio.to_thread(queue.abandoned):
            row = await asyncio.to_thread(queue.get, request_id)
            if row and row.status == IN_PROGRESS and row.attempts == attempt:
                await asyncio.to_thread(put_back, row, queue, self._server.settings, reason="no sign of life")

    async def _deliver(self) -> None:
        await asyncio.to_thread(self._webhooks.deliver_due)

    async def _collect(self) -> None:
        """Workers leave records as files; they belong into the table."""
        async with self._recording:
            await asyncio.to_thread(self._records.absorb)

    async def _clean(self) -> None:
        before = time.time() - self._server.settings.result_seconds
        await asyncio.to_thread(self._server.queue.clean, older_than=before)
        await asyncio.to_thread(self._server.files.clean, older_than=before)
        async with self._recording:
            await asyncio.to_thread(self._records.compact)
