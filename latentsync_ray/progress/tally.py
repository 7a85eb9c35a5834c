"""The numbers of a run that every display shows, and which failures are worth a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from latentsync_ray.errors import headline
from latentsync_ray.progress.estimate import Pace
from latentsync_ray.types import ClipRecord

__all__ = ["Tally", "clock_time"]

_LISTED = 5
"""Failures told one by one; of further ones only the first of each error code."""
_LAST_CLIP = 0.1
"""What part of a clip is left at least, however many frames came: some are of clips that failed."""
_ENOUGH = 2
"""Dubbed clips from which on their mean length stands for the others'."""


class Tally:
    """Counts clips, failures by error code, and frames."""

    def __init__(self, total: int, done: int, now: float) -> None:
        self.total, self.done_before, self.began = total, done, now
        self.finished = self.frames = self.listed = 0
        self.codes: Counter[str] = Counter()
        self._pace = Pace()
        self._dubbed = self._dubbed_frames = 0

    @property
    def done(self) -> int:
        return self.done_before + self.finished

    def add_frames(self, count: int, now: float) -> None:
        """So many frames were finished since the last call; below zero to correct an estimate."""
        self.frames += count
        self._pace.add(count, now)

    def left(self, now: float) -> float | None:
        """Seconds that the clips left will take, as if all of them were dubbed at the pace of the last minutes.

        None when too little is known. What failed tells nothing: mostly, that takes no time.
        """
        clips, pace = self.total - self.done, self._pace.at(now)
        if clips <= 0 or self._dubbed < min(_ENOUGH, self.total - 1) or not self._dubbed or pace is None:
            return None
        mean = self._dubbed_frames / self._dubbed
        begun = min(max(0.0, self.frames - self._dubbed_frames), (clips - _LAST_CLIP) * mean)
        return (clips * mean - begun) / pace

    def speed(self, now: float) -> float:
        """Frames per second since the start, model loading included."""
        return self.frames / max(now - self.began, 1e-9)

    def counts(self) -> str:
        failed = self.codes.total()
        return f"{self.done}/{self.total} clips" + (f", {failed} failed" if failed else "")

    def count(self, record: ClipRecord) -> Iterator[tuple[str, str]]:
        """Count a clip; of a failure worth telling, clip and language, and the reason; once, that others are not told."""
        self.finished += 1
        if record.ok:
            self._dubbed += 1
            self._dubbed_frames += record.frames or 0
            return
        code = str(record.error_code)
        self.codes[code] += 1
        if self.codes.total() <= _LISTED or self.codes[code] == 1:
            self.listed += 1
            yield (
                f"{record.clip_id} ({record.language})" if record.language else record.clip_id,
                f"{code}: {headline(record.error)}",
            )
        elif self.codes.total() == self.listed + 1:
            yield "", f"{_LISTED} failures were listed; of others only the first with a new error code will be"

    def summary(self, output: str | None) -> str:
        """How often each error code was met; empty when every failure had its own line."""
        if self.codes.total() == self.listed:
            return ""
        codes = ", ".join(f"{count} {code}" for code, count in self.codes.most_common())
        return f"failed: {codes}" + (f"; latentsync-ray report {output} says more" if output else "")


def clock_time(seconds: float) -> str:
    """``0:01:05``."""
    return str(timedelta(seconds=round(seconds)))
