"""How a run tells what it is doing: a live bar for people, plain lines for logs, nothing for libraries.

Knows clip records and the clock; knows nothing about what is run.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TextIO

import rich.progress
from rich.console import Console
from rich.text import Text

from latentsync_ray.types import ClipRecord

__all__ = ["PlainProgress", "Progress", "RichProgress", "Silent", "make_progress", "noting"]

_EVERY = 10.0
"""Seconds between two plain lines: often enough to see that it lives, seldom enough for a log of days."""
_ETA_PERIOD = 900.0
"""Seconds of history behind the bar's estimate: clips take minutes, and the default of 30 s would mostly see none finish."""


class Progress(Protocol):
    """What a run reports. ``start`` comes first and ``stop`` last, even when the run breaks off."""

    def start(self, total: int, done: int) -> None:
        """The run has ``total`` clips, of which earlier runs finished ``done``."""

    def frames(self, count: int) -> None:
        """So many frames were finished since the last call."""

    def clip(self, record: ClipRecord) -> None:
        """A clip is finished or has failed."""

    def note(self, text: str) -> None:
        """Something worth a line, for example that a worker died and its clips are tried again."""

    def stop(self) -> None:
        """Nothing more will come."""


class Silent:
    """Says nothing."""

    def start(self, total: int, done: int) -> None: ...

    def frames(self, count: int) -> None: ...

    def clip(self, record: ClipRecord) -> None: ...

    def note(self, text: str) -> None: ...

    def stop(self) -> None: ...


class _Tally:
    """The numbers both displays show."""

    def __init__(self, total: int, done: int, now: float) -> None:
        self.total, self.done_before, self.began = total, done, now
        self.finished = self.failed = self.frames = 0

    @property
    def done(self) -> int:
        return self.done_before + self.finished

    def speed(self, now: float) -> float:
        """Frames per second since the start, model loading included."""
        return self.frames / max(now - self.began, 1e-9)

    def counts(self) -> str:
        return f"{self.done}/{self.total} clips" + (f", {self.failed} failed" if self.failed else "")

    def count(self, record: ClipRecord) -> None:
        self.finished += 1
        self.failed += record.status == "failed"


class RichProgress:
    """A live bar on a terminal, failures printed above it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[counts]}"),
            rich.progress.TextColumn("{task.fields[speed]}", style="cyan"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("elapsed,", style="dim"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("left", style="dim"),
            console=self._console,
            speed_estimate_period=_ETA_PERIOD,
            expand=True,
        )
        self._tally = _Tally(0, 0, time.monotonic())

    def start(self, total: int, done: int) -> None:
        self._tally = _Tally(total, done, time.monotonic())
        self._task = self._bar.add_task("", total=total, completed=done, counts=self._tally.counts(), speed="")
        self._bar.start()

    def frames(self, count: int) -> None:
        self._tally.frames += count
        speed = f"{self._tally.frames} frames, {self._tally.speed(time.monotonic()):.1f}/s"
        self._bar.update(self._task, speed=speed)

    def clip(self, record: ClipRecord) -> None:
        self._tally.count(record)
        if record.status == "failed":
            self._bar.console.print(Text.assemble(("failed ", "bold red"), (record.clip_id, "bold"), f"  {_reason(record)}"))
        self._bar.update(self._task, completed=self._tally.done, counts=self._tally.counts())

    def note(self, text: str) -> None:
        self._bar.console.print(Text(text, style="yellow"))

    def stop(self) -> None:
        self._bar.stop()


class PlainProgress:
    """One line every ten seconds or so, and one for each failure."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream or sys.stderr, clock
        self._tally = _Tally(0, 0, clock())
        self._last = clock()

    def start(self, total: int, done: int) -> None:
        self._tally = _Tally(total, done, self._clock())
        self._say(f"{total} clip{'s' * (total != 1)}" + (f", {done} of them done before" if done else ""))

    def frames(self, count: int) -> None:
        self._tally.frames += count
        self._say_now_and_then()

    def clip(self, record: ClipRecord) -> None:
        self._tally.count(record)
        if record.status == "failed":
            self._say(f"failed {record.clip_id}: {_reason(record)}")
        self._say_now_and_then()

    def note(self, text: str) -> None:
        self._say(text)

    def stop(self) -> None:
        self._say(self._line())

    def _say_now_and_then(self) -> None:
        if self._clock() - self._last >= _EVERY:
            self._last = self._clock()
            self._say(self._line())

    def _line(self) -> str:
        tally, now = self._tally, self._clock()
        elapsed = now - tally.began
        line = f"{tally.counts()}, {tally.frames} frames, {tally.speed(now):.1f} frames/s, {_clock_time(elapsed)} elapsed"
        left = tally.total - tally.done
        if tally.finished and left > 0:
            line += f", about {_clock_time(elapsed / tally.finished * left)} left"
        return line

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


@contextmanager
def noting(progress: Progress) -> Iterator[None]:
    """Meanwhile, show this package's log records as notes of the display, which they would otherwise write across."""
    logger, handler = logging.getLogger("latentsync_ray"), _NoteHandler(progress)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _NoteHandler(logging.Handler):
    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.note(self.format(record))


def make_progress() -> Progress:
    """The live bar when stderr is a terminal, plain lines otherwise."""
    return RichProgress() if sys.stderr.isatty() else PlainProgress()


def _reason(record: ClipRecord) -> str:
    return f"{record.error_code}: {record.error}"


def _clock_time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
