"""What a run has in work, stage by stage: the numbers that a display asks for while nothing finishes. Knows no runner."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Gauge", "UnderWay"]


_CLIPS = ("plan", "track", "join")
"""Stages that take whole clips."""
_SEGMENTS = ("crop", "generate", "paste")


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Stage -> how many clips or segments it has in work or waiting before it, in pipeline order; only those that have some.

    Until a clip is cut into segments, and when they are joined, it counts as a clip.
    """

    clips: Mapping[str, int] = field(default_factory=dict)
    segments: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> UnderWay:
        """From stage -> how many, in any order."""
        clips, segments = (
            {stage: counts[stage] for stage in stages if counts.get(stage, 0) > 0} for stages in (_CLIPS, _SEGMENTS)
        )
        return cls(clips, segments)

    @property
    def text(self) -> str:
        """E.g. ``4 segments (1 crop, 3 generate) and 2 clips (2 track) under way``; empty when there is nothing."""
        told = [f"{_counted(counts, noun)} ({_listed(counts)})" for counts, noun in self._known()]
        return f"{' and '.join(told)} under way" if told else ""

    @property
    def short(self) -> str:
        """The same where there is little room: how many in all, and where most of them are: ``6 under way, 3 in generate``."""
        counts = {**self.clips, **self.segments}
        if not counts:
            return ""
        fullest = max(counts, key=lambda stage: counts[stage])
        return f"{sum(counts.values())} under way, {counts[fullest]} in {fullest}"

    def _known(self) -> list[tuple[Mapping[str, int], str]]:
        return [(counts, noun) for counts, noun in ((self.segments, "segment"), (self.clips, "clip")) if counts]


def _counted(counts: Mapping[str, int], noun: str) -> str:
    total = sum(counts.values())
    return f"{total} {noun}{'s' * (total != 1)}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {stage}" for stage, count in counts.items())


class Gauge:
    """Counts what enters and leaves stages, from any thread. ``gauge()`` reads it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def enter(self, stage: str | None) -> None:
        """Something waits for this stage or is in it; None: it has gone through all."""
        self._add(stage, 1)

    def leave(self, stage: str) -> None:
        """It has left the stage."""
        self._add(stage, -1)

    def empty(self) -> None:
        """Nothing is in work any more."""
        with self._lock:
            self._counts.clear()

    def __call__(self) -> UnderWay:
        with self._lock:
            return UnderWay.of(self._counts)

    def _add(self, stage: str | None, count: int) -> None:
        if stage is not None:
            with self._lock:
                self._counts[stage] += count
