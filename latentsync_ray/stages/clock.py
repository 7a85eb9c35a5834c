"""How long a device works, and how long it stands idle in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["NOTHING", "Clock", "Spent"]


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of a device."""

    working: float = 0.0
    idle: float = 0.0
    """Before it began to work."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.working + other.working, self.idle + other.idle)

    def __truediv__(self, count: int) -> Spent:
        return Spent(self.working / count, self.idle / count)


NOTHING = Spent()


class Clock:
    """``with clock.work() as spent`` is around all that the device does; ``spent()`` tells of it afterwards."""

    def __init__(self) -> None:
        self._ended: float | None = None

    @contextmanager
    def work(self) -> Iterator[Callable[[], Spent]]:
        """One at a time."""
        began = ended = time.perf_counter()
        idle = 0.0 if self._ended is None else began - self._ended
        try:
            yield lambda: Spent(ended - began, idle)
        finally:
            self._ended = ended = time.perf_counter()

    def rest(self) -> None:
        """Nobody waits for the device from now on until it works again."""
        self._ended = None
