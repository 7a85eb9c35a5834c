"""The live bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

import rich.progress
from rich.console import Console
from rich.table import Column
from rich.text import Text

from latentsync_ray.progress.tally import Tally, clock_time
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord

__all__ = ["RichProgress"]

_ROOMY, _VERY_ROOMY = 110, 170
"""Columns from which on there is room for what is in work beside the number of frames, and for every stage of it."""


class RichProgress:
    """A live bar on a terminal, failures printed above it; before the start a spinner with what is under way."""

    def __init__(self, console: Console | None = None, *, output: str | None = None) -> None:
        self._console, self._output = console or Console(stderr=True), output
        self._bar = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[counts]}"),
            rich.progress.TextColumn("{task.fields[doing]}", style="cyan"),
            _Work(self, table_column=Column(no_wrap=True)),
            _Times(self, table_column=Column(no_wrap=True)),
            console=self._console,
            expand=True,
        )
        self._task: rich.progress.TaskID | None = None
        self._started = self._stopped = False
        self._phase, self._tally = "", Tally(0, 0, time.monotonic())
        self._ask: Callable[[], UnderWay] = UnderWay

    def phase(self, text: str) -> None:
        if text != self._phase:
            self._phase = text
            self._bar.update(self._shown(), doing=text)

    def under_way(self, ask: Callable[[], UnderWay]) -> None:
        self._ask = ask

    def start(self, total: int, done: int) -> None:
        self._tally, self._started = Tally(total, done, time.monotonic()), True
        self._bar.update(self._shown(), total=total, completed=done, counts=self._tally.counts())

    def frames(self, count: int) -> None:
        self._tally.add_frames(count, time.monotonic())
        self._bar.update(self._shown(), doing=self._speed())

    def clip(self, record: ClipRecord) -> None:
        for clip_id, told in self._tally.count(record):
            self._say(
                Text.assemble(("failed ", "bold red"), (clip_id, "bold"), f"  {told}") if clip_id else Text(told, "yellow")
            )
        self._bar.update(self._shown(), completed=self._tally.done, counts=self._tally.counts())

    def note(self, text: str) -> None:
        self._say(Text(text, style="yellow"))

    def stop(self) -> None:
        if self._stopped:
            return
        self._ask = UnderWay
        if self._task is not None:
            self._bar.update(self._task, doing=self._speed())
            self._bar.live.transient = not self._started  # a spinner that never became a bar leaves nothing behind
            self._bar.stop()
        if summary := self._tally.summary(self._output):
            self._say(Text(summary, style="red"))
        self._stopped = True

    @property
    def work(self) -> str:
        """What is in work now, as far as there is room."""
        now, width = self._ask(), self._console.width
        if width < _ROOMY and self._tally.frames:
            return ""
        return now.text if width >= _VERY_ROOMY else now.short

    @property
    def left(self) -> float | None:
        """Seconds left, when that is known."""
        return self._tally.left(time.monotonic())

    def _speed(self) -> str:
        return f"{self._tally.frames} frames, {self._tally.speed(time.monotonic()):.1f}/s" if self._tally.frames else ""

    def _say(self, text: Text) -> None:
        if not self._stopped:
            self._console.print(text)

    def _shown(self) -> rich.progress.TaskID:
        """The bar's only task; the first call shows it."""
        if self._task is None:
            self._task = self._bar.add_task("", total=None, counts="", doing="")
            if not self._stopped:
                self._bar.start()
        return self._task


class _Work(rich.progress.ProgressColumn):
    """What is in work."""

    max_refresh = 0.5

    def __init__(self, bar: RichProgress, *, table_column: Column) -> None:
        super().__init__(table_column)
        self._of = bar

    def render(self, task: rich.progress.Task) -> Text:
        return Text(self._of.work, style="cyan")


class _Times(rich.progress.ProgressColumn):
    """Time elapsed, and as soon as enough is known an estimate of the time left."""

    max_refresh = 0.5

    def __init__(self, bar: RichProgress, *, table_column: Column) -> None:
        super().__init__(table_column)
        self._of = bar

    def render(self, task: rich.progress.Task) -> Text:
        text = Text(clock_time(task.elapsed or 0), style="yellow")
        if (left := self._of.left) is None:
            return text.append(" elapsed", style="dim")
        return text.append(", ", style="dim").append(clock_time(left), style="cyan").append(" left", style="dim")
