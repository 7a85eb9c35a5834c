"""Plain lines: often enough, on time even when nothing moves, and none after the end."""

from __future__ import annotations

import io
import threading

import pytest

from latentsync_ray.progress import PlainProgress, lines
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord

OK = ClipRecord(clip_id="good", video="v", audio="a", status="ok", output="o", frames=50)
FAILED = ClipRecord(clip_id="[bad]", video="v", audio="a", error_code="no_face", error="no face in [0, 120] frames")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(stream: io.StringIO, clock: Clock) -> PlainProgress:
    return PlainProgress(stream, clock=clock, ticking=False)


def wait(progress: PlainProgress, clock: Clock, seconds: int) -> None:
    """Let the time pass as the thread would see it."""
    for _ in range(seconds):
        clock.now += 1
        progress.tick()


def test_lines_come_every_ten_seconds_and_failures_at_once(progress: PlainProgress, stream: io.StringIO, clock: Clock):
    progress.start(5, 2)
    for _ in range(12):
        clock.now += 2
        progress.frames(10)
    progress.clip(FAILED)
    clock.now += 10
    progress.clip(OK)
    progress.note("a worker died; its clips are tried again")
    progress.frames(1)
    progress.stop()
    assert stream.getvalue().splitlines() == [
        "5 clips, 3 of them to be made",
        "2/5 clips, 50 frames, 5.0 frames/s, 0:00:10 elapsed",
        "2/5 clips, 100 frames, 5.0 frames/s, 0:00:20 elapsed",
        "failed [bad]: no_face: no face in [0, 120] frames",
        "4/5 clips, 1 failed, 120 frames, 3.5 frames/s, 0:00:34 elapsed",
        "a worker died; its clips are tried again",
        "4/5 clips, 1 failed, 121 frames, 3.6 frames/s, 0:00:34 elapsed",
    ]


def test_what_is_under_way_is_told_soon_and_every_half_minute(progress: PlainProgress, stream: io.StringIO, clock: Clock):
    progress.phase("reading the manifest")
    wait(progress, clock, 1)
    progress.phase("reading the records")
    wait(progress, clock, 40)
    progress.start(6, 0)
    progress.phase("starting Ray")
    wait(progress, clock, 10)
    progress.phase("waiting for the first frames")
    wait(progress, clock, 62)
    progress.phase("dubbing")
    progress.frames(128)
    assert stream.getvalue().splitlines() == [
        "reading the records, 0:00:03 elapsed",
        "reading the records, 0:00:31 elapsed",
        "6 clips",
        "starting Ray: 0/6 clips, 0:00:43 elapsed",
        "waiting for the first frames: 0/6 clips, 0:00:53 elapsed",
        "waiting for the first frames: 0/6 clips, 0:01:21 elapsed",
        "waiting for the first frames: 0/6 clips, 0:01:49 elapsed",
    ], "a phase of a second is not worth a line; others are after two"
    wait(progress, clock, 7)
    assert stream.getvalue().splitlines()[7:] == ["dubbing: 0/6 clips, 128 frames, 1.7 frames/s, 0:01:55 elapsed"]


def test_while_nothing_finishes_it_says_where_the_work_is(progress: PlainProgress, stream: io.StringIO, clock: Clock):
    progress.start(6, 0)
    progress.phase("dubbing")
    counts = {"track": 2}
    progress.under_way(lambda: UnderWay.of(counts))
    wait(progress, clock, 30)
    counts |= {"track": 0, "crop": 1, "generate": 4}
    wait(progress, clock, 28)
    told = [line.partition(", ")[2] for line in stream.getvalue().splitlines()[1:]]
    assert told == [
        "2 clips (2 track) under way, 0:00:02 elapsed",
        "2 clips (2 track) under way, 0:00:30 elapsed",
        "5 segments (1 crop, 4 generate) under way, 0:00:58 elapsed",
    ]


def test_the_time_left_is_told_after_a_few_clips(progress: PlainProgress, stream: io.StringIO, clock: Clock):
    progress.start(10, 0)
    wait(progress, clock, 300)
    for _ in range(4):
        wait(progress, clock, 20)
        progress.frames(50)
        progress.clip(OK)
    wait(progress, clock, 10)
    progress.frames(0)
    lines = [line for line in stream.getvalue().splitlines() if "/10 clips" in line]
    assert "left" not in lines[-3]
    assert lines[-1] == "4/10 clips, 200 frames, 0.5 frames/s, 0:06:30 elapsed, about 0:02:00 left"


def test_failures_alone_promise_no_end(progress: PlainProgress, stream: io.StringIO, clock: Clock):
    progress.start(1000, 0)
    progress.clip(FAILED)
    wait(progress, clock, 60)
    assert "left" not in stream.getvalue()


def test_the_end_is_told_once_and_nothing_after_it(progress: PlainProgress, stream: io.StringIO, clock: Clock):
    progress.start(1, 0)
    clock.now += 12
    progress.clip(FAILED)
    progress.stop()
    told = stream.getvalue()
    assert told.splitlines() == [
        "1 clip",
        "failed [bad]: no_face: no face in [0, 120] frames",
        "1/1 clips, 1 failed, 0:00:12 elapsed",
    ]
    progress.stop()
    progress.phase("more")
    wait(progress, clock, 60)
    progress.note("more")
    progress.frames(1)
    progress.clip(FAILED)
    progress.stop()
    assert stream.getvalue() == told


def test_what_breaks_off_before_the_start_leaves_no_counts(progress: PlainProgress, stream: io.StringIO):
    progress.phase("reading the manifest")
    progress.stop()
    assert stream.getvalue() == ""


class Told(io.StringIO):
    """Sets ``line`` when something is written."""

    def __init__(self) -> None:
        super().__init__()
        self.line = threading.Event()

    def write(self, text: str) -> int:
        self.line.set()
        return super().write(text)


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "latentsync-progress"]


def test_a_thread_tells_the_time_until_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "_TICK", 0.001)
    stream, clock = Told(), Clock()
    progress = PlainProgress(stream, clock=clock)
    assert not own_threads(), "it starts when it is needed"
    progress.phase("reading the manifest")
    clock.now += 31
    assert stream.line.wait(60)
    progress.stop()
    assert not own_threads()
    assert stream.getvalue().startswith("reading the manifest, 0:00:31 elapsed\n")


def test_a_reader_that_went_away_ends_the_thread_quietly(monkeypatch: pytest.MonkeyPatch):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    monkeypatch.setattr(lines, "_TICK", 0.001)
    clock = Clock()
    progress = PlainProgress(Gone(), clock=clock)
    progress.phase("reading the manifest")
    clock.now += 31
    for thread in own_threads():
        thread.join(60)
    assert not raised
    progress.stop()
