"""What every display has in common, and which one a run gets."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

import latentsync_ray.progress
from latentsync_ray import Cluster, Job
from latentsync_ray.progress import PlainProgress, Progress, RichProgress, display, make_progress
from latentsync_ray.types import ClipRecord


def plain(stream: io.StringIO) -> Progress:
    return PlainProgress(stream, output="gs://b/out", ticking=False)


def rich(stream: io.StringIO) -> Progress:
    console = Console(file=stream, force_terminal=True, width=200, color_system=None)
    return RichProgress(console, output="gs://b/out")


def failed(code: str, number: int) -> ClipRecord:
    return ClipRecord(clip_id=f"clip{number}", video="v", audio="a", error_code=code, error="why not")


@pytest.mark.parametrize("make", [plain, rich])
def test_of_many_failures_five_and_the_first_of_each_code_are_listed(make: Callable[[io.StringIO], Progress]):
    stream = io.StringIO()
    progress = make(stream)
    progress.start(1000, 0)
    for number in range(1000):
        progress.clip(failed({700: "no_face", 701: "too_large"}.get(number, "input_not_found"), number))
    progress.clip(failed("no_face", 1000))
    progress.stop()
    told = stream.getvalue()
    listed = [number for number in range(1001) if f"failed clip{number}:" in told or f"failed clip{number}  " in told]
    assert listed == [0, 1, 2, 3, 4, 700, 701]
    assert told.count("5 failures were listed; of others only the first with a new error code will be") == 1
    assert "failed: 998 input_not_found, 2 no_face, 1 too_large; latentsync-ray report gs://b/out says more" in told


@pytest.mark.parametrize("make", [plain, rich])
def test_few_failures_are_not_summed_up(make: Callable[[io.StringIO], Progress]):
    stream = io.StringIO()
    progress = make(stream)
    progress.start(5, 0)
    for number in range(5):
        progress.clip(failed("no_face", number))
    progress.stop()
    assert "failed: " not in stream.getvalue()
    assert "were listed" not in stream.getvalue()


def test_it_follows_the_terminal(monkeypatch: pytest.MonkeyPatch):
    assert isinstance(make_progress(), PlainProgress)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(make_progress(), RichProgress)


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_only_a_run_on_ray_keeps_its_lines_away(runner: str, monkeypatch: pytest.MonkeyPatch):
    entered: list[bool] = []

    @contextmanager
    def sieve() -> Iterator[None]:
        entered.append(True)
        yield

    monkeypatch.setattr(latentsync_ray.progress, "without_ray_lines", sieve)
    job = Job.model_validate({"manifest": "m", "output": "o", "cluster": Cluster.model_validate({"runner": runner})})
    with display(job) as progress:
        assert isinstance(progress, PlainProgress)
    assert entered == [True] * (runner == "ray")
