"""Plain lines, for logs and pipes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from latentsync_ray.progress.tally import Tally, clock_time
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord

__all__ = ["PlainProgress"]

_EVERY = 10.0
"""Seconds between two lines while clips move: often enough to see that it lives, seldom enough for a log of days."""
_AT_LEAST = 28.0
"""Seconds after which a line comes even when nothing has moved: half a minute, less the ticks of a busy machine."""
_WORTH_A_LINE = 2.0
"""Seconds that a phase lasts before it gets its first line."""
_TICK = 1.0
"""Seconds between two looks at the clock."""


class PlainProgress:
    """A line every ten seconds or so, at least every thirty even when nothing moves, and one for each of the first failures.

    From the first call until ``stop`` a thread looks at the clock; without ``ticking`` the caller does, by ``tick``.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        output: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        ticking: bool = True,
    ) -> None:
        self._stream, self._output, self._clock = stream, output, clock
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick_on, name="latentsync-progress", daemon=True) if ticking else None
        now = clock()
        self._tally, self._began = Tally(0, 0, now), now
        self._running = self._started = False
        self._phase, self._phase_began, self._phase_is_new = "", now, False
        self._last_line = self._last_numbers = now
        self._told: tuple[int, int] | None = None
        self._ask: Callable[[], UnderWay] = UnderWay

    def phase(self, text: str) -> None:
        with self._speaking():
            if text != self._phase:
                self._phase, self._phase_began, self._phase_is_new = text, self._clock(), True

    def under_way(self, ask: Callable[[], UnderWay]) -> None:
        with self._speaking():
            self._ask = ask

    def start(self, total: int, done: int) -> None:
        with self._speaking():
            self._tally, self._started = Tally(total, done, self._clock()), True
            self._say(f"{total} clip{'s' * (total != 1)}" + (f", {total - done or 'none'} of them to be made" if done else ""))

    def frames(self, count: int) -> None:
        with self._speaking():
            self._tally.add_frames(count, self._clock())
            self._say_now_and_then()

    def clip(self, record: ClipRecord) -> None:
        with self._speaking():
            for clip_id, told in self._tally.count(record):
                self._say(f"failed {clip_id}: {told}" if clip_id else told)
            self._say_now_and_then()

    def note(self, text: str) -> None:
        with self._speaking():
            self._say(text)

    def tick(self) -> None:
        """Say what is under way if that is new, or if nothing was said for long."""
        with self._lock:
            now = self._clock()
            new = self._phase_is_new and now - self._phase_began >= _WORTH_A_LINE
            if new or now - self._last_line >= _AT_LEAST:
                self._say_numbers()

    def stop(self) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            if self._started and self._told != self._numbers():
                self._phase, self._ask = "", UnderWay
                self._say_numbers(at_end=True)
            if summary := self._tally.summary(self._output):
                self._say(summary)
            self._stopped.set()
        if self._ticker and self._ticker.is_alive():  # not if a signal came before it began
            self._ticker.join()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """The lock, for whoever is told something; the first time the clock starts."""
        with self._lock:
            if not self._running and not self._stopped.is_set():
                self._running, self._began = True, self._clock()
                self._last_line = self._last_numbers = self._began
                if self._ticker:
                    self._ticker.start()
            yield

    def _tick_on(self) -> None:
        with suppress(OSError):  # nobody reads any more: the run itself meets that, too
            while not self._stopped.wait(_TICK):
                self.tick()

    def _say_now_and_then(self) -> None:
        if self._clock() - self._last_numbers >= _EVERY:
            self._say_numbers()

    def _say_numbers(self, *, at_end: bool = False) -> None:
        self._last_numbers, self._phase_is_new, self._told = self._clock(), False, self._numbers()
        self._say(self._line(at_end=at_end))

    def _numbers(self) -> tuple[int, int]:
        return self._tally.done, self._tally.frames

    def _line(self, *, at_end: bool = False) -> str:
        tally, now = self._tally, self._clock()
        elapsed = f"{clock_time(now - self._began)} elapsed"
        if not self._started:
            return f"{self._phase or 'starting'}, {elapsed}"
        line = f"{self._phase}: " if self._phase else ""
        line += tally.counts() + (f", {tally.frames} frames, {tally.speed(now):.1f} frames/s" if tally.frames else "")
        line += f", {work}" if (work := self._ask().text) else ""
        line += f", {elapsed}"
        if not at_end and (left := tally.left(now)) is not None:
            line += f", about {clock_time(left)} left"
        return line

    def _say(self, text: str) -> None:
        if not self._stopped.is_set():
            self._last_line = self._clock()
            print(text, file=self._stream or sys.stderr, flush=True)
