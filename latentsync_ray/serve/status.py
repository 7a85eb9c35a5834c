"""What waiting clients ask for again and again, read from the database for all of them at once.

Fifty clients that ask ten times a second are 500 calls, each of several queries; here they are five readings.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from latentsync_ray.serve.queue import Queue
from latentsync_ray.serve.tables import LogRow, RequestRow

__all__ = ["StatusPoller", "View"]

_OLD_SECONDS = 0.2
"""What is told may be so old."""
_SHARE = 0.1
"""Of the time, what reading may take: where it is slow (a long queue, a far database), what is told may be older."""
_OLDEST_SECONDS = 2.0
"""But never older, as long as the database answers."""
_ASKED_SECONDS = 5.0
"""A request that nobody asks for is read no more."""
_MOST_ANSWERS = 8
"""Kept for one view: with and without lines, for the few names by which a server is reached."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One request at one moment."""

    row: RequestRow
    lines: Sequence[LogRow]
    """All lines about it so far."""
    position: int
    """How many waiting requests come before it; 0 when it does not wait."""
    answers: dict[Hashable, bytes] = field(default_factory=dict, compare=False)

    def answer(self, kind: Hashable, make: Callable[[], bytes]) -> bytes:
        """What ``make`` makes of this, made once for all who want the same ``kind``."""
        content = self.answers.get(kind)
        if content is None:
            content = make()
            if len(self.answers) < _MOST_ANSWERS:
                self.answers[kind] = content
        return content


class StatusPoller:
    """The requests that are asked for, as they were a moment ago. For one event loop."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._views: dict[str, View] = {}
        self._asked: dict[str, float] = {}
        self._since: dict[str, float] = {}
        """Readings that began before this are older than what is known of a request."""
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
        self._asked[request_id] = self._since[request_id] = time.monotonic()

    async def _find(self, request_id: str) -> View | None:
        began = time.monotonic()
        found, _ = await run_in_threadpool(self._read, [request_id])
        if request_id in found:
            self._asked[request_id] = time.monotonic()
            self._keep(found, began)
        return found.get(request_id)

    async def _renew(self) -> None:
        async with self._lock:
            began, seconds = time.monotonic(), 0.0
            if began < self._good_until:
                return  # somebody else was faster
            self._asked = {each: when for each, when in self._asked.items() if began - when < _ASKED_SECONDS}
            read = frozenset(self._asked)
            try:
                found, seconds = await run_in_threadpool(self._read, read)
                for each in [each for each in self._views if each not in found and (each in read or each not in self._asked)]:
                    del self._views[each]
                self._since = {each: when for each, when in self._since.items() if each in self._asked}
                self._keep(found, began)
            finally:  # also when the database does not answer: those who wait here must not ask it one after the other
                self._good_until = time.monotonic() + min(max(_OLD_SECONDS, seconds / _SHARE), _OLDEST_SECONDS)

    def _keep(self, found: dict[str, View], began: float) -> None:
        """Show what a reading found that ``began`` then, except where something newer is known."""
        for request_id, view in found.items():
            if self._since.get(request_id, -math.inf) <= began:
                self._views[request_id], self._since[request_id] = view, began

    def _read(self, request_ids: Collection[str]) -> tuple[dict[str, View], float]:
        """The views of these requests, and how many seconds that took; one that did not change stays the same object."""
        began = time.monotonic()
        states, positions = self._queue.states(request_ids)
        views: dict[str, View] = {}
        for request_id, (status, last_line) in states.items():
            before, position = self._views.get(request_id), positions.get(request_id, 0)
            lines = before.lines if before else []
            seen = lines[-1].id if lines else 0
            same = before is not None and before.row.status == status
            if before and same and (before.position, seen) == (position, last_line):
                views[request_id] = before
                continue
            row = before.row if before and same else self._queue.get(request_id)
            if row:
                # After the row: what is told of a completed request is complete.
                new = self._queue.logs(request_id, after=seen) if last_line > seen or not same else ()
                views[request_id] = View(row=row, lines=[*lines, *new], position=position)
        return views, time.monotonic() - began
