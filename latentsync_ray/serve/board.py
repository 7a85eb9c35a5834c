"""What waiting clients ask for again and again, read from the database for all of them at once.

Fifty clients that ask ten times a second are 500 calls, each of several queries; here they are five readings.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from latentsync_ray.serve.queue import Queue
from latentsync_ray.serve.tables import LogRow, RequestRow

__all__ = ["Board", "View"]

_OLD_SECONDS = 0.2
"""What is told may be so old."""
_SHARE = 0.1
"""Of the time, what reading may take: where it is slow (a long queue, a far database), what is told may be older."""
_ASKED_SECONDS = 5.0
"""A request that nobody asks for is read no more."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One request at one moment."""

    row: RequestRow
    lines: Sequence[LogRow]
    """All lines about it so far."""
    position: int
    """How many waiting requests come before it; 0 when it does not wait."""
    answers: dict[Hashable, bytes] = field(default_factory=dict, compare=False)
    """What was made of this, for those who want the same."""


class Board:
    """The requests that are asked for, at most ``_OLD_SECONDS`` old. For one event loop."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._views: dict[str, View] = {}
        self._asked: dict[str, float] = {}
        self._good_until = -math.inf
        self._lock = asyncio.Lock()

    async def look(self, request_id: str) -> View | None:
        """The request as it was a moment ago, or None when it is unknown (or was cleaned away)."""
        view, now = self._views.get(request_id), time.monotonic()
        if view is None:
            return await self._find(request_id)
        self._asked[request_id] = now
        if now < self._good_until:
            return view
        await self._renew()
        return self._views.get(request_id) or await self._find(request_id)

    def forget(self, request_id: str) -> None:
        """Read this one anew when it is next asked for: it was just changed from here."""
        self._views.pop(request_id, None)

    async def _find(self, request_id: str) -> View | None:
        found = await run_in_threadpool(self._read, [request_id])
        self._views |= found
        self._asked |= dict.fromkeys(found, time.monotonic())
        return found.get(request_id)

    async def _renew(self) -> None:
        async with self._lock:
            began = time.monotonic()
            if began < self._good_until:
                return  # somebody else was faster
            self._asked = {each: when for each, when in self._asked.items() if began - when < _ASKED_SECONDS}
            read = frozenset(self._asked)
            found = await run_in_threadpool(self._read, read)
            self._views = {each: view for each, view in self._views.items() if each in self._asked.keys() - read} | found
            self._good_until = time.monotonic() + max(_OLD_SECONDS, (time.monotonic() - began) / _SHARE)

    def _read(self, request_ids: Collection[str]) -> dict[str, View]:
        """The views of these requests; one that did not change stays the same object."""
        states, positions = self._queue.states(request_ids)
        views: dict[str, View] = {}
        for request_id, (status, last_line) in states.items():
            before, position = self._views.get(request_id), positions.get(request_id, 0)
            lines = before.lines if before else []
            seen = lines[-1].id if lines else 0
            if before and (before.row.status, before.position, seen) == (status, position, last_line):
                views[request_id] = before
                continue
            row = before.row if before and before.row.status == status else self._queue.get(request_id)
            if row:
                new = self._queue.logs(request_id, after=seen) if last_line > seen else ()
                views[request_id] = View(row=row, lines=[*lines, *new], position=position)
        return views
