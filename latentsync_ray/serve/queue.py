"""The durable queue: what was accepted, what came of it, and every step between, as short transactions.

A request goes IN_QUEUE -> IN_PROGRESS -> COMPLETED. Whoever works on it holds a lease and a number, the attempt; both have to
be renewed and shown, so that of two workers that believe they own a request only one can finish it. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, case, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from latentsync_ray.serve.tables import COMPLETED, IN_PROGRESS, IN_QUEUE, LogRow, RequestRow

__all__ = ["Outcome", "Queue"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a request ended."""

    code: int
    """HTTP status of its result."""
    body: dict[str, Any]
    record: dict[str, Any] | None = None
    cost: float | None = None

    @classmethod
    def failure(cls, code: int, error_type: str, detail: str) -> Outcome:
        """An error that is not about the input (those carry a list of details)."""
        return cls(code=code, body={"detail": detail, "error_type": error_type})


_ID = re.compile(r"[0-9a-f-]{36}")
"""Nothing else is asked for: databases differ in what they make of odd characters."""
_IN_ORDER = select(RequestRow.id).where(RequestRow.status == IN_QUEUE).order_by(RequestRow.priority, RequestRow.created)
_CANCELLED = Outcome.failure(499, "client_cancelled", "the request was cancelled")
_NOT_STARTED = Outcome.failure(504, "request_timeout", "the request did not start before its deadline; nothing was done")


class Queue:
    """All operations on the requests in a database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def submit(
        self,
        key_name: str,
        arguments: dict[str, Any],
        *,
        base: str,
        priority: int = 0,
        start_before: float | None = None,
        webhook: str | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[RequestRow, bool]:
        """Accept a request: its row, and whether it is new (not so when the key sent the ``idempotency_key`` before)."""
        row = RequestRow(
            id=str(uuid.uuid4()),
            key_name=key_name,
            idempotency_key=idempotency_key,
            status=IN_QUEUE,
            arguments=arguments,
            base=base,
            priority=priority,
            created=time.time(),
            start_before=start_before,
            webhook=webhook,
            attempts=0,
            cancelled=False,
            webhook_attempts=0,
        )
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                session.add(row)
            return row, True
        except IntegrityError:
            before = self.same(key_name, idempotency_key or "")
            if before is None:
                raise
            return before, False

    def same(self, key_name: str, idempotency_key: str) -> RequestRow | None:
        """The request that a key sent with this ``idempotency_key`` before."""
        before = select(RequestRow).where(RequestRow.key_name == key_name, RequestRow.idempotency_key == idempotency_key)
        with Session(self._engine, expire_on_commit=False) as session:
            return session.scalars(before).one_or_none()

    def get(self, request_id: str) -> RequestRow | None:
        """The request, or None when it is unknown (or was cleaned away)."""
        if not _ID.fullmatch(request_id):
            return None
        with Session(self._engine, expire_on_commit=False) as session:
            return session.get(RequestRow, request_id)

    def position(self, row: RequestRow) -> int:
        """How many waiting requests come before this one."""
        before = or_(
            RequestRow.priority < row.priority,
            (RequestRow.priority == row.priority) & (RequestRow.created < row.created),
        )
        with Session(self._engine) as session:
            return session.scalar(select(func.count()).where(RequestRow.status == IN_QUEUE, before)) or 0

    def states(self, request_ids: Collection[str]) -> tuple[dict[str, tuple[str, int]], dict[str, int]]:
        """State and number of the last line (0: none) of each request that exists, and the positions of the waiting ones."""
        last = select(func.max(LogRow.id)).where(LogRow.request_id == RequestRow.id).scalar_subquery()
        ids = [each for each in request_ids if _ID.fullmatch(each)]
        asked = select(RequestRow.id, RequestRow.status, func.coalesce(last, 0)).where(RequestRow.id.in_(ids))
        with Session(self._engine) as session:
            states = {row[0]: (row[1], row[2]) for row in session.execute(asked)}
            waiting = any(status == IN_QUEUE for status, _ in states.values())
            in_order = session.scalars(_IN_ORDER).all() if waiting else ()
        return states, {each: number for number, each in enumerate(in_order) if each in states}

    def unfinished(self, key_name: str) -> int:
        """How many requests of a key are waiting or being worked on."""
        open_ones = select(func.count()).where(RequestRow.key_name == key_name, RequestRow.status.in_((IN_QUEUE, IN_PROGRESS)))
        with Session(self._engine) as session:
            return session.scalar(open_ones) or 0

    def logs(self, request_id: str, *, after: int = 0) -> Sequence[LogRow]:
        """The lines about a request whose number is above ``after``, oldest first."""
        lines = select(LogRow).where(LogRow.request_id == request_id, LogRow.id > after).order_by(LogRow.id)
        with Session(self._engine, expire_on_commit=False) as session:
            return session.scalars(lines).all()

    def log(self, request_id: str, message: str, *, level: str = "INFO") -> None:
        """Add a line."""
        with Session(self._engine) as session, session.begin():
            session.add(LogRow(request_id=request_id, time=time.time(), level=level, message=message))

    def waiting(self, count: int) -> Sequence[str]:
        """The next requests to begin, at most ``count``."""
        with Session(self._engine) as session:
            return session.scalars(_IN_ORDER.limit(count)).all()

    def claim(self, request_id: str, *, lease_seconds: float) -> RequestRow | None:
        """Begin a waiting request. None when it is no longer waiting, or when its start deadline has passed."""
        now = time.time()
        mine = (
            update(RequestRow)
            .where(RequestRow.id == request_id, RequestRow.status == IN_QUEUE)
            .where(or_(RequestRow.start_before.is_(None), RequestRow.start_before > now, RequestRow.attempts > 0))
            .values(
                status=IN_PROGRESS,
                started=func.coalesce(RequestRow.started, now),
                attempts=RequestRow.attempts + 1,
                lease=now + lease_seconds,
            )
        )
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            if session.execute(mine).rowcount == 0:  # pyright: ignore[reportAttributeAccessIssue]
                return None
            return session.get_one(RequestRow, request_id)

    def renew(self, request_id: str, attempt: int, *, lease_seconds: float) -> bool:
        """Show that the work goes on. False when it should end: cancelled, or no longer this attempt's."""
        renewed = (
            update(RequestRow)
            .where(RequestRow.id == request_id, RequestRow.status == IN_PROGRESS, RequestRow.attempts == attempt)
            .where(RequestRow.cancelled.is_(False))
            .values(lease=time.time() + lease_seconds)
        )
        return self._changed(renewed)

    def finish(
        self, request_id: str, outcome: Outcome, *, attempt: int | None = None, line: str = "", level: str = "INFO"
    ) -> bool:
        """Complete a request that is being worked on by ``attempt`` (None: that is waiting). False when somebody else did.

        ``line`` is added to its log with the result or not at all, so that work which is begun again is not told twice.
        """
        now = time.time()
        its_own = (
            (RequestRow.status == IN_QUEUE)
            if attempt is None
            else (RequestRow.status == IN_PROGRESS) & (RequestRow.attempts == attempt)
        )
        done = (
            update(RequestRow)
            .where(RequestRow.id == request_id, its_own)
            .values(
                status=COMPLETED,
                finished=now,
                lease=None,
                code=outcome.code,
                body=outcome.body,
                record=outcome.record,
                cost=outcome.cost,
                webhook_due=case((RequestRow.webhook.is_not(None), now)),
            )
        )
        with Session(self._engine) as session, session.begin():
            if session.execute(done).rowcount == 0:  # pyright: ignore[reportAttributeAccessIssue]
                return False
            if line:
                session.add(LogRow(request_id=request_id, time=now, level=level, message=line))
            return True

    def cancel(self, request_id: str) -> str | None:
        """Ask a request to end; a waiting one ends here. Its state before, or None when it is unknown."""
        running = update(RequestRow).where(RequestRow.id == request_id, RequestRow.status == IN_PROGRESS).values(cancelled=True)
        while True:
            if self.finish(request_id, _CANCELLED):
                return IN_QUEUE
            if self._changed(running):
                return IN_PROGRESS
            row = self.get(request_id)
            if row is None or row.status == COMPLETED:
                return row and row.status

    def give_up(self, request_id: str, attempt: int) -> bool:
        """End a running request that was cancelled."""
        return self.finish(request_id, _CANCELLED, attempt=attempt)

    def release(self, request_id: str, attempt: int, *, attempts: int, reason: str) -> None:
        """Put back a request whose worker went away, or complete it when that was the last of ``attempts``."""
        row = self.get(request_id)
        if row is None or row.status != IN_PROGRESS or row.attempts != attempt:
            return
        if row.cancelled:
            self.give_up(request_id, attempt)
        elif attempt >= attempts:
            detail = f"its worker went away {attempt} times ({reason}); the input may need more memory than there is"
            self.finish(request_id, Outcome.failure(503, "runner_disconnected", detail), attempt=attempt)
        else:
            again = (
                update(RequestRow)
                .where(RequestRow.id == request_id, RequestRow.status == IN_PROGRESS, RequestRow.attempts == attempt)
                .values(status=IN_QUEUE, lease=None)
            )
            if self._changed(again):
                self.log(request_id, f"the worker went away ({reason}); queued again", level="WARN")

    def running(self) -> Sequence[RequestRow]:
        """Everything that is being worked on."""
        with Session(self._engine, expire_on_commit=False) as session:
            return session.scalars(select(RequestRow).where(RequestRow.status == IN_PROGRESS)).all()

    def abandoned(self) -> Sequence[tuple[str, int]]:
        """Running requests whose lease ran out, each with its attempt."""
        late = select(RequestRow.id, RequestRow.attempts).where(
            RequestRow.status == IN_PROGRESS, RequestRow.lease < time.time()
        )
        with Session(self._engine) as session:
            return [(row.id, row.attempts) for row in session.execute(late)]

    def expire(self) -> int:
        """Complete waiting requests whose start deadline has passed."""
        missed = select(RequestRow.id).where(
            RequestRow.status == IN_QUEUE, RequestRow.start_before < time.time(), RequestRow.attempts == 0
        )
        with Session(self._engine) as session:
            late = session.scalars(missed).all()
        return sum(self.finish(request_id, _NOT_STARTED) for request_id in late)

    def counts(self) -> dict[str, int]:
        """How many requests are in each state."""
        by_state = select(RequestRow.status, func.count()).group_by(RequestRow.status)
        with Session(self._engine) as session:
            return {IN_QUEUE: 0, IN_PROGRESS: 0, COMPLETED: 0, **{row[0]: row[1] for row in session.execute(by_state)}}

    def clean(self, *, older_than: float) -> int:
        """Forget requests that were completed before then and whose webhook needs no more attempts."""
        old = select(RequestRow.id).where(
            RequestRow.status == COMPLETED, RequestRow.finished < older_than, RequestRow.webhook_due.is_(None)
        )
        with Session(self._engine) as session, session.begin():
            gone = session.scalars(old.limit(1000)).all()
            session.execute(delete(LogRow).where(LogRow.request_id.in_(gone)))
            session.execute(delete(RequestRow).where(RequestRow.id.in_(gone)))
        return len(gone)

    def due_webhooks(self, count: int = 20) -> Sequence[RequestRow]:
        """Completed requests whose result has to be delivered now."""
        due = select(RequestRow).where(RequestRow.webhook_due <= time.time()).order_by(RequestRow.webhook_due).limit(count)
        with Session(self._engine, expire_on_commit=False) as session:
            return session.scalars(due).all()

    def claim_webhook(self, row: RequestRow, *, until: float) -> bool:
        """Begin an attempt to deliver, which is over at ``until``. False when somebody else began it."""
        still_due = (RequestRow.id == row.id) & (RequestRow.webhook_due <= time.time())
        mine = update(RequestRow).where(still_due, RequestRow.webhook_attempts == row.webhook_attempts)
        return self._changed(mine.values(webhook_due=until))

    def delivered(self, row: RequestRow, *, again_at: float | None) -> None:
        """Note an attempt to deliver: done, or when to try again."""
        self._changed(
            update(RequestRow)
            .where(RequestRow.id == row.id)
            .values(webhook_attempts=row.webhook_attempts + 1, webhook_due=again_at)
        )

    def _changed(self, statement: Any) -> bool:
        with Session(self._engine) as session, session.begin():
            return session.execute(statement).rowcount > 0  # pyright: ignore[reportAttributeAccessIssue]
