"""What was finished when, and how a chart of it looks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from latentsync_ray.report.charts import course_chart
from latentsync_ray.report.course import Course, course_of

BEGAN = datetime(2026, 11, 28, 14, 59, 55, tzinfo=UTC)


def course(seconds: list[float | None], failed: list[bool] | None = None) -> Course | None:
    """Of clips with 100 frames each that were finished so many seconds after ``BEGAN``."""
    bad = np.array(failed or [False] * len(seconds))
    at = pa.chunked_array(
        [pa.array([None if s is None else BEGAN + timedelta(seconds=s) for s in seconds], pa.timestamp("us", "UTC"))]
    )
    return course_of(at, np.where(bad, 0, 100), bad)


def test_clips_are_counted_in_bins_of_time() -> None:
    known = course([0.0, 4.9, 5.0, 16.0, None], [False, False, True, False, False])
    assert known == Course(
        start=datetime(2026, 11, 28, 14, 59, 50, tzinfo=UTC),
        bin_seconds=10,
        frames=[200, 0, 100],
        ok=[2, 0, 1],
        failed=[0, 1, 0],
    )


def test_nobody_knows_when() -> None:
    assert course([None, None]) is None


@pytest.mark.parametrize(
    ("span", "width"), [(1, 10), (940, 10), (960, 60), (6 * 3600, 300), (40 * 86400, 86400), (3e8, 86400 * 64)]
)
def test_there_are_never_too_many_bins(span: float, width: int) -> None:
    known = course([0.0, span])
    assert known
    assert known.bin_seconds == width
    assert len(known.frames) <= 96
    assert sum(known.frames) == 200


@pytest.mark.parametrize("span", [11, 100, 5000, 86400, 9 * 86400, 400 * 86400, 3e8])
def test_a_chart_stays_within_its_edges(span: float) -> None:
    known = course([0.0, span / 3, span / 3, span], [False, False, False, True])
    assert known
    chart = course_chart(known)
    for bar in (*chart.frames, *chart.failed):
        assert 0 <= bar.left < bar.left + bar.width <= 100
        assert 0 < bar.height <= 100
    assert max(bar.height for bar in chart.frames) > 50, "the scale fits what is drawn"
    assert chart.rows[-1].at == pytest.approx(100)
    assert 1 <= len(chart.rows) <= 5
    assert 1 <= len(chart.columns) <= 5
    assert all(one.at < other.at for one, other in pairwise(chart.columns))


def test_what_a_bar_says() -> None:
    known = course([0.0, 16.0, 17.0, 18.0], [False, False, True, False])
    assert known
    chart = course_chart(known)
    assert (chart.unit, chart.bin) == ("frames per minute", "10 seconds")
    assert chart.frames[-1].text == "2026-11-28 15:00:10 UTC, 10 seconds: 200 frames, 2 clips dubbed, 1 failed"
    assert [row.text for row in chart.rows] == ["500", "1,000", "1,500"]
    assert [tick.text for tick in chart.columns] == ["14:59:50\n28 Nov", "15:00:00", "15:00:10", "15:00:20"]


def test_failures_alone_make_a_chart() -> None:
    known = course([0.0, 30.0], [True, True])
    assert known
    chart = course_chart(known)
    assert chart.frames == []
    assert len(chart.failed) == 2
