"""The live bar: what is left of it, and what it shows meanwhile."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from latentsync_ray.progress import RichProgress
from latentsync_ray.progress import bar as module
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord

OK = ClipRecord(clip_id="good", video="v", audio="a", status="ok", output="o", frames=50)
FAILED = ClipRecord(clip_id="[bad]", video="v", audio="a", error_code="no_face", error="no face in [0, 120] frames")


def bar(width: int = 120) -> tuple[RichProgress, io.StringIO]:
    stream = io.StringIO()
    return RichProgress(Console(file=stream, force_terminal=True, width=width, color_system=None)), stream


def drawn(stream: io.StringIO) -> list[str]:
    """Every state of the terminal's lines, without control sequences."""
    return [line for line in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "\n", stream.getvalue()).splitlines() if line.strip()]


def test_it_ends_with_the_counts_and_keeps_failures():
    progress, stream = bar()
    progress.start(3, 1)
    progress.frames(50)
    progress.clip(OK)
    progress.clip(FAILED)
    progress.note("[sic]")
    progress.stop()
    shown = stream.getvalue()
    assert "failed [bad]  no_face: no face in [0, 120] frames" in shown, "names are text, not markup"
    assert "[sic]" in shown
    last = [line for line in drawn(stream) if "clips" in line][-1]
    assert "3/3 clips, 1 failed" in last
    assert "50 frames" in last


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_under_way_stands_beside_the_bar_until_frames_come(width: int):
    progress, stream = bar(width)
    progress._bar.get_time = lambda: 100.0  # a busy machine takes a second for this
    seen = []
    for phase in ("reading the records of earlier runs", "starting Ray", "waiting for the first frames"):
        if phase == "starting Ray":
            progress.start(1000, 20)
        progress.phase(phase)
        progress._bar.refresh()
        seen.append(drawn(stream)[-1])
        assert phase in seen[-1]
        assert "0:00:00 elapsed" in seen[-1]
    assert "clips" not in seen[0]
    assert "20/1000 clips" in seen[-1]
    progress.phase("dubbing")
    progress.frames(128)
    progress.phase("dubbing")
    progress._bar.refresh()
    assert "20/1000 clips 128 frames" in drawn(stream)[-1], "the same phase again does not hide the numbers"
    progress.phase("writing the table")
    progress._bar.refresh()
    assert "writing the table" in drawn(stream)[-1]
    progress.stop()
    assert "20/1000 clips 128 frames" in drawn(stream)[-1]
    assert max(map(len, drawn(stream))) <= width


@pytest.mark.parametrize(
    ("width", "work"),
    [(80, ""), (120, "6 under way, 4 in generate"), (170, "4 segments (4 generate) and 2 clips (2 track) under way")],
)
def test_what_is_in_work_is_shown_where_there_is_room(width: int, work: str):
    progress, stream = bar(width)
    progress.start(1000, 20)
    progress.phase("dubbing")
    progress.under_way(lambda: UnderWay.of({"track": 2, "generate": 4}))
    progress._bar.refresh()
    assert "under way" in drawn(stream)[-1], "while there are no frames, everywhere"
    progress.frames(128)
    progress._bar.refresh()
    assert work in drawn(stream)[-1]
    assert ("under way" in drawn(stream)[-1]) == bool(work)
    progress.stop()
    assert "under way" not in drawn(stream)[-1]
    assert max(map(len, drawn(stream))) <= width


def test_the_time_left_counts_down_by_the_pace(monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    progress, stream = bar(160)
    progress.start(10, 0)
    now += 300
    for _ in range(4):
        now += 20
        progress.frames(50)
        progress.clip(OK)
    progress._bar.refresh()
    assert "0:02:00 left" in drawn(stream)[-1]
    progress.stop()


def test_what_breaks_off_before_the_start_is_wiped_away():
    progress, stream = bar()
    progress.phase("reading the manifest")
    progress.stop()
    assert stream.getvalue().rstrip("\x1b[?25h").endswith("\x1b[2K"), "its line is cleared"


def test_nothing_is_shown_after_the_end():
    progress, stream = bar()
    progress.start(1, 0)
    progress.clip(FAILED)
    progress.stop()
    told = stream.getvalue()
    progress.note("more")
    progress.phase("more")
    progress.frames(1)
    progress.clip(FAILED)
    progress.stop()
    assert stream.getvalue() == told
