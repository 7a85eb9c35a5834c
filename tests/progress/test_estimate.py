"""The pace of a run, and what is left at it, by a clock of our own."""

from __future__ import annotations

import pytest

from latentsync_ray.progress.estimate import Pace
from latentsync_ray.progress.tally import Tally
from latentsync_ray.types import ClipRecord

FRAMES, TAKES = 250, 40.0
"""Of a clip; and the seconds that one takes."""


def clip(status: str = "ok") -> ClipRecord:
    failed = {} if status == "ok" else {"error_code": "no_face", "error": "nobody"}
    return ClipRecord.from_row(
        {"clip_id": "a", "video": "v", "audio": "a", "status": status, "frames": FRAMES if status == "ok" else None, **failed}
    )


def dub(tally: Tally, now: float, *, takes: float = TAKES, parts: int = 2) -> float:
    """One clip in some parts; gives the time when it is finished."""
    for _ in range(parts):
        now += takes / parts
        tally.add_frames(FRAMES // parts, now)
    for _ in tally.count(clip()):
        raise AssertionError("it is no failure")
    return now


@pytest.mark.parametrize("start", [0.0, 300.0, 3600.0])
def test_a_slow_start_does_not_fool_it(start: float) -> None:
    tally, now = Tally(100, 0, 0.0), start
    assert tally.left(now) is None
    for finished in range(1, 6):
        now = dub(tally, now)
        left, truth = tally.left(now), (100 - finished) * TAKES
        if finished >= 3:
            assert left == pytest.approx(truth, rel=0.2), f"after {finished} clips"
    assert tally.left(now) == pytest.approx(95 * TAKES, rel=0.02)


def test_nothing_is_told_until_enough_is_known() -> None:
    tally, now = Tally(100, 0, 0.0), dub(Tally(1, 0, 0.0), 300.0)
    now = dub(tally, now)
    assert tally.left(now) is None, "of a single clip, half went to the start"


def test_what_fails_at_once_tells_nothing() -> None:
    tally, now = Tally(1100, 0, 0.0), 300.0
    for _ in range(1000):
        now += 0.01
        list(tally.count(clip("failed")))
    assert tally.left(now) is None
    for _ in range(4):
        now = dub(tally, now)
    assert tally.left(now) == pytest.approx(96 * TAKES, rel=0.2)


def test_clips_of_earlier_runs_are_not_left() -> None:
    tally, now = Tally(1000, 900, 0.0), 300.0
    for _ in range(4):
        now = dub(tally, now)
    assert tally.left(now) == pytest.approx(96 * TAKES, rel=0.2)


def test_it_follows_a_pace_that_changes() -> None:
    tally, now = Tally(1000, 0, 0.0), 0.0
    for _ in range(30):
        now = dub(tally, now)
    for _ in range(60):
        now = dub(tally, now, takes=TAKES / 4)
    assert tally.left(now) == pytest.approx(910 * TAKES / 4, rel=0.5)
    for _ in range(150):
        now = dub(tally, now, takes=TAKES / 4)
    assert tally.left(now) == pytest.approx(760 * TAKES / 4, rel=0.05)


def test_half_a_clip_is_half_done() -> None:
    tally, now = Tally(5, 0, 0.0), 300.0
    for _ in range(4):
        now = dub(tally, now, parts=4)
    tally.add_frames(FRAMES // 2, now + TAKES / 2)
    assert tally.left(now + TAKES / 2) == pytest.approx(TAKES / 2, rel=0.2)
    tally.add_frames(10 * FRAMES, now + TAKES)
    assert (tally.left(now + TAKES) or 0) > 0, "as long as a clip is missing, there is something left"


def test_the_end_is_no_estimate() -> None:
    tally, now = Tally(4, 0, 0.0), 0.0
    for _ in range(4):
        now = dub(tally, now)
    assert tally.left(now) is None


def test_frames_that_are_overdue_slow_the_pace() -> None:
    pace, now = Pace(), 0.0
    for _ in range(20):
        now += 10
        pace.add(100, now)
    assert pace.at(now) == pytest.approx(10)
    assert pace.at(now + 15) == pytest.approx(10), "a usual pause, and a little more"
    slower = pace.at(now + 600)
    assert slower is not None
    assert slower < 5


def test_many_workers_that_begin_together_are_no_pace() -> None:
    """Eight, each with a part of 100 frames every 100 s: the first eight come at once."""
    pace = Pace()
    for turn in range(8):
        for worker in range(8):
            pace.add(100, 300 + 100 * turn + 0.4 * worker)
    assert pace.at(300 + 700 + 2.8) == pytest.approx(8, rel=0.2)


def test_corrections_count() -> None:
    pace, now = Pace(), 0.0
    for _ in range(10):
        now += 10
        pace.add(150, now)
        pace.add(-50, now)
    assert pace.at(now) == pytest.approx(10, rel=0.01)
