"""The numbers of a run that every display shows, and which failures are worth a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from latentsync_ray.errors import headline
from latentsync_ray.types import ClipRecord

__all__ = ["Tally", "clock_time"]

_LISTED = 5
"""Failures told one by one; of further ones only the first of each error code."""


class Tally:
    """Counts clips, failures by error code, and frames."""

    def __init__(self, total: int, done: int, now: float) -> None:
        self.total, self.done_before, self.began = total, done, now
        self.finished = self.frames = self.listed = 0
        self.codes: Counter[str] = Counter()

    @property
    def done(self) -> int:
        return self.done_before + self.finished

    def speed(self, now: float) -> float:
        """Frames per second since the start, model loading included."""
        return self.frames / max(now - self.began, 1e-9)

    def counts(self) -> str:
        failed = self.codes.total()
        return f"{self.done}/{self.total} clips" + (f", {failed} failed" if failed else "")

    def count(self, record: ClipRecord) -> Iterator[tuple[str, str]]:
        """Count a clip; of a failure worth telling, the clip's id and the reason, and once that others are not told."""
        self.finished += 1
        if record.ok:
            return
        code = str(record.error_code)
        self.codes[code] += 1
        if self.codes.total() <= _LISTED or self.codes[code] == 1:
            self.listed += 1
            yield record.clip_id, f"{code}: {headline(record.error)}"
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
