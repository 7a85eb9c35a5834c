"""How long a run will still take, from how fast frames came lately. Knows the clock and frames; no clips, no display."""

from __future__ import annotations

import math

__all__ = ["Pace"]

_MEMORY = 600.0
"""Seconds after which something counts for 1/e: clips take minutes, and a pace of an hour ago is another's."""
_SETTLING = 5.0
"""Seconds from the first frames on in which all that come still belong to the start: several workers begin at once."""
_FEWEST = 3
"""Times that frames have to come after that, so that a pace is known."""
_PATIENCE = 2.0
"""In so many usual pauses without frames nothing is amiss; what goes beyond slows the pace."""


class Pace:
    """Frames per second, of late: the start, until the first frames come, does not count, and old times are forgotten."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = 0.0
        self._frames = self._seconds = self._pauses = 0.0
        """All three fade."""
        self._heard = 0

    def add(self, frames: int, now: float) -> None:
        """So many frames were finished since the last call, below zero to correct it; ``now`` in seconds of any clock."""
        if not frames:
            return
        if self._began is None:
            self._began = self._last = now
        elif now - self._began < _SETTLING:
            self._last = now
        elif (passed := now - self._last) > 0:
            kept = math.exp(-passed / _MEMORY)
            spread = _MEMORY * (1 - kept)  # what the time since the last call counts for
            self._frames = self._frames * kept + frames * spread / passed
            self._seconds = self._seconds * kept + spread
            self._pauses = self._pauses * kept + 1
            self._last, self._heard = now, self._heard + 1
        else:
            self._frames += frames

    def at(self, now: float) -> float | None:
        """Frames per second; None until enough is known. Falls when frames are overdue."""
        if self._heard < _FEWEST or self._frames <= 0:
            return None
        overdue = max(0.0, now - self._last - _PATIENCE * self._seconds / self._pauses)
        kept = math.exp(-overdue / _MEMORY)
        return self._frames * kept / (self._seconds * kept + _MEMORY * (1 - kept))
