"""Work in a thread of its own, a little ahead of whoever takes what it gives."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

__all__ = ["ahead", "apart"]

_T = TypeVar("_T")

_LOOK_SECONDS = 0.1
"""Between looks whether what was made is still wanted."""
_PATIENCE_SECONDS = 5.0
"""Longest wait for a thread whose work is not wanted any more: whoever interrupts a run wants to go."""


class _Unwanted(BaseException):
    """Ends the work of a thread whose results nobody takes any more."""


class _End:
    """The last thing that comes: why there is no more."""

    def __init__(self, failure: BaseException | None) -> None:
        self.failure = failure


def ahead(
    work: Callable[[Callable[[Any], None]], None], *, depth: int = 1, news: Callable[[Any], bool] = lambda _: False
) -> Generator[Any]:
    """Run ``work(give)`` in a thread, and yield what it gives, of which up to ``depth`` wait to be taken.

    ``news`` says of something that it never makes the thread wait. What the work raises is raised here. When the iterator is
    closed, or its taker fails, the next ``give`` ends the work, which is waited for, but not for long.
    """
    given: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room, unwanted = threading.Semaphore(depth), threading.Event()

    def give(something: Any) -> None:
        while not unwanted.is_set():
            if news(something) or room.acquire(timeout=_LOOK_SECONDS):
                return given.put(something)
        raise _Unwanted

    def run() -> None:
        failure = None
        try:
            work(give)
        except _Unwanted:
            return
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failure = error
        given.put(_End(failure))

    thread = threading.Thread(target=run, daemon=True, name="ahead")
    thread.start()
    try:
        while not isinstance(something := given.get(), _End):
            if not news(something):
                room.release()
            yield something
        if something.failure is not None:
            raise something.failure
    finally:
        unwanted.set()
        thread.join(_PATIENCE_SECONDS)


def apart(rows: Iterable[_T]) -> Generator[_T]:
    """The same, made in a thread of their own."""

    def work(give: Callable[[_T], None]) -> None:
        for row in rows:
            give(row)

    return ahead(work)
