"""How a command ends that is told to: by Ctrl-C or SIGTERM, within some seconds, and at once when it is told again."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["GRACE_SECONDS", "Ended", "ending_in_time", "leave"]

GRACE_SECONDS = 20.0
"""Longest time from the signal to the end: less than the 30 s after which Kubernetes and spot machines are switched off."""


class Ended(KeyboardInterrupt):
    """A signal that asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def leave(code: int) -> NoReturn:
    """End the process after what was to be done at its exit, without waiting for threads: they may be in the middle of C++."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def ending_in_time() -> Iterator[None]:
    """Meanwhile, the first SIGINT or SIGTERM raises ``Ended`` in the main thread, and the process ends in time whatever then
    keeps it. The second one ends it at once.
    """
    told: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if told:
            os._exit(128 + number)
        told.append(number)
        last = threading.Timer(GRACE_SECONDS, os._exit, [128 + number])
        last.daemon = True
        last.start()
        raise Ended(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if not told:  # else the process is about to end, and a second signal has to find it
            for number, handler in before.items():
                signal.signal(number, handler)
