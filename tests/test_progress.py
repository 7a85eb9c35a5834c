"""What a run shows: the same numbers live and in a log."""

from __future__ import annotations

import io

from rich.console import Console

from latentsync_ray.progress import PlainProgress, RichProgress, make_progress
from latentsync_ray.types import ClipRecord

OK = ClipRecord(clip_id="good", video="v", audio="a", status="ok", frames=50)
FAILED = ClipRecord(clip_id="[bad]", video="v", audio="a", error_code="no_face", error="no face in [0, 120] frames")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_every_ten_seconds_and_failures_at_once():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, clock=clock)
    progress.start(5, 2)
    for _ in range(12):
        clock.now += 2
        progress.frames(10)
    progress.clip(FAILED)
    clock.now += 10
    progress.clip(OK)
    progress.note("a worker died; its clips are tried again")
    progress.stop()
    assert stream.getvalue().splitlines() == [
        "5 clips, 2 of them done before",
        "2/5 clips, 50 frames, 5.0 frames/s, 0:00:10 elapsed",
        "2/5 clips, 100 frames, 5.0 frames/s, 0:00:20 elapsed",
        "failed [bad]: no_face: no face in [0, 120] frames",
        "4/5 clips, 1 failed, 120 frames, 3.5 frames/s, 0:00:34 elapsed, about 0:00:17 left",
        "a worker died; its clips are tried again",
        "4/5 clips, 1 failed, 120 frames, 3.5 frames/s, 0:00:34 elapsed, about 0:00:17 left",
    ]


def test_live_bar_ends_with_the_counts_and_keeps_failures():
    stream = io.StringIO()
    progress = RichProgress(Console(file=stream, force_terminal=True, width=120, color_system=None))
    progress.start(3, 1)
    progress.frames(50)
    progress.clip(OK)
    progress.clip(FAILED)
    progress.note("[sic]")
    progress.stop()
    shown = stream.getvalue()
    assert "failed [bad]  no_face: no face in [0, 120] frames" in shown, "names are text, not markup"
    assert "[sic]" in shown
    last = [line for line in shown.splitlines() if "clips" in line][-1]
    assert "3/3 clips, 1 failed" in last
    assert "50 frames" in last


def test_display_follows_the_terminal(monkeypatch):
    assert isinstance(make_progress(), PlainProgress)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(make_progress(), RichProgress)
