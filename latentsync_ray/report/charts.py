"""The geometry of the page's charts, in per cent of their width and height. Knows nothing of HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from latentsync_ray.report.course import Course

__all__ = ["Bar", "Chart", "Tick", "course_chart"]

_STEPS = (10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400, 7 * 86400)
"""Seconds between two ticks of time; beyond, weeks in powers of two."""
_MOST_TICKS = 4
"""Times below a chart: as many as a phone has room for."""
_ROWS = 4
"""Lines across a chart, at most."""
_GAP = 0.12
"""What part of a bin is left free between two bars."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar that stands on the axis, and what it says when somebody points at it."""

    left: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str
    """Of one line, or of two."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars over time: frames upwards, and clips that failed in a strip of their own."""

    unit: str
    bin: str
    """How long a bar is, in words."""
    frames: list[Bar]
    failed: list[Bar]
    rows: list[Tick]
    columns: list[Tick]


def course_chart(course: Course) -> Chart:
    """Frames per minute, or per hour where bins are hours, and failures, both by when they were finished."""
    per = 3600 if course.bin_seconds >= 3600 else 60
    rates = [frames * per / course.bin_seconds for frames in course.frames]
    step = _nice(max(rates) / _ROWS)
    top = step * max(1, math.ceil(max(rates) / step))
    bars = len(rates)

    def bar(place: int, height: float) -> Bar:
        return Bar((place + _GAP / 2) * 100 / bars, (1 - _GAP) * 100 / bars, 100 * height, _told(course, place))

    most = max(1, *course.failed)
    return Chart(
        unit="frames per hour" if per == 3600 else "frames per minute",
        bin=_span(course.bin_seconds),
        frames=[bar(place, rate / top) for place, rate in enumerate(rates) if rate],
        failed=[bar(place, count / most) for place, count in enumerate(course.failed) if count],
        rows=[Tick(100 * row * step / top, f"{row * step:,.10g}") for row in range(1, round(top / step) + 1)],
        columns=_times(course),
    )


def _told(course: Course, place: int) -> str:
    began = datetime.fromtimestamp(course.start.timestamp() + place * course.bin_seconds, UTC)
    clips = f"{course.ok[place]:,} clips dubbed" + (f", {course.failed[place]:,} failed" if course.failed[place] else "")
    return f"{began:%Y-%m-%d %H:%M:%S} UTC, {_span(course.bin_seconds)}: {course.frames[place]:,} frames, {clips}"


def _span(seconds: int) -> str:
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{seconds // size} {noun}{'s' * (seconds > size)}"
    return f"{seconds} seconds"


def _nice(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20 ... that is not below ``least``, fractions too."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _times(course: Course) -> list[Tick]:
    start, span = int(course.start.timestamp()), len(course.frames) * course.bin_seconds
    step = next((step for step in _STEPS if span // step < _MOST_TICKS), _STEPS[-1])
    while span // step >= _MOST_TICKS:
        step *= 2
    ticks, day = [], None
    for second in range(-(-start // step) * step, start + span + 1, step):
        time = datetime.fromtimestamp(second, UTC)
        if step >= 86400:
            text = f"{time:%d %b}"
        else:
            text = f"{time:%H:%M:%S}" if step < 60 else f"{time:%H:%M}"
            text += f"\n{time:%d %b}" if time.date() != day else ""
        day = time.date()
        ticks.append(Tick(100 * (second - start) / span, text))
    return ticks
