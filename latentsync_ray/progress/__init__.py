"""How a run tells what it is doing: a live bar for people, plain lines for logs, nothing for libraries.

Knows clip records and the clock; knows nothing about what is run.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

from latentsync_ray import redact
from latentsync_ray.config import Job
from latentsync_ray.progress.bar import RichProgress
from latentsync_ray.progress.lines import PlainProgress
from latentsync_ray.progress.sieve import without_ray_lines
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord

__all__ = ["PlainProgress", "Progress", "RichProgress", "Silent", "display", "make_progress", "noting"]


class Progress(Protocol):
    """What a run reports. ``stop`` comes last, even when the run breaks off; what is told after it is not shown."""

    def phase(self, text: str) -> None:
        """What is under way from now on, such as "reading the manifest". May come before ``start``."""

    def under_way(self, ask: Callable[[], UnderWay]) -> None:
        """From now on ``ask`` says what each stage has in work, whenever the display wants to know, from any thread."""

    def start(self, total: int, done: int) -> None:
        """The run has ``total`` clips, of which earlier runs finished ``done``."""

    def frames(self, count: int) -> None:
        """So many frames were finished since the last call; below zero to correct an estimate."""

    def clip(self, record: ClipRecord) -> None:
        """A clip is finished or has failed."""

    def note(self, text: str) -> None:
        """Something worth a line, for example that a worker died and its clips are tried again."""

    def stop(self) -> None:
        """Nothing more will come. A second call does nothing."""


class Silent:
    """Says nothing."""

    def phase(self, text: str) -> None: ...

    def under_way(self, ask: Callable[[], UnderWay]) -> None: ...

    def start(self, total: int, done: int) -> None: ...

    def frames(self, count: int) -> None: ...

    def clip(self, record: ClipRecord) -> None: ...

    def note(self, text: str) -> None: ...

    def stop(self) -> None: ...


def make_progress(output: str | None = None) -> Progress:
    """The live bar when stderr is a terminal, plain lines otherwise; ``output`` is where a hint sends readers for more."""
    return RichProgress(output=output) if sys.stderr.isatty() else PlainProgress(output=output)


@contextmanager
def display(job: Job, *, verbose: bool = False) -> Iterator[Progress]:
    """The display for a run of ``job`` by this process, with the error lines of Ray's core kept off it.

    ``verbose`` keeps nothing off it, and notes what this package logs at all levels.
    """
    logger = logging.getLogger("latentsync_ray")
    before = logger.level
    logger.setLevel(logging.DEBUG if verbose else before)
    try:
        with without_ray_lines() if job.cluster.runner == "ray" and not verbose else nullcontext():
            yield make_progress(redact.shown(job.output))
    finally:
        logger.setLevel(before)


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
        super().__init__(logging.DEBUG if logging.getLogger("latentsync_ray").level == logging.DEBUG else logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.note(self.format(record))
