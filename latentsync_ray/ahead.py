"""Work in a thread of its own, a little ahead of whoever takes what it gives."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

__all__ = ["ahead"]

_LOOK_SECONDS = 0.1
"""Between looks whether what was made is still wanted."""
_PATIENCE_SECONDS = 5.0
"""Longest wait for a thread when the process was interrupted: nobody wants what it makes any more."""


class _Unwanted(BaseException):
    """Ends the work of a thread whose results nobody takes any more."""


class _End:
    """The last thing that comes: why there is no more."""

    def __init__(self, failure: BaseException | None) -> None:
        self.failure = failure


def ahead(work: Callable[[Callable[[Any], None]], None], *, depth: int = 1) -> Generator[Any]:
    """Run ``work(give)`` in a thread, and yield what it gives, of which up to ``depth`` wait to be taken.

    What it raises is raised here. When the iterator is closed, or its taker fails, the next ``give`` ends the work.
    """
    given: queue.Queue[Any] = queue.Queue(depth)
    unwanted = threading.Event()

    def give(something: Any) -> None:
        while not unwanted.is_set():
            try:
                return given.put(something, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue
        raise _Unwanted

    def run() -> None:
        failure = None
        try:
            work(give)
        except _Unwanted:
            return
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failure = error
        with contextlib.suppress(_Unwanted):
            give(_End(failure))

    thread, patience = threading.Thread(target=run, daemon=True, name="ahead"), None
    thread.start()
    try:
        while not isinstance(something := given.get(), _End):
            yield something
        if something.failure is not None:
            raise something.failure
    except KeyboardInterrupt:
        patience = _PATIENCE_SECONDS
        raise
    finally:
        unwanted.set()
        thread.join(patience)
