"""How long a device works, and waits."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest

from latentsync_ray.stages import clock
from latentsync_ray.stages.clock import NOTHING, Clock, Spent


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as a test sets it."""
    time = [100.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: time[0]))
    return time


def worked(clock: Clock, now: list[float], seconds: float) -> Spent:
    with clock.work() as spent:
        now[0] += seconds
    return spent()


def test_the_first_work_waited_for_nothing(now: list[float]) -> None:
    assert worked(Clock(), now, 3.0) == Spent(working=3.0, idle=0.0)


def test_the_time_in_between_is_told(now: list[float]) -> None:
    clock = Clock()
    worked(clock, now, 3.0)
    now[0] += 0.5
    assert worked(clock, now, 2.0) == Spent(working=2.0, idle=0.5)


def test_work_that_fails_was_work(now: list[float]) -> None:
    clock = Clock()
    with suppress(ValueError), clock.work():
        now[0] += 4.0
        raise ValueError("no")
    now[0] += 1.0
    assert worked(clock, now, 1.0).idle == 1.0


def test_nobody_waits_at_rest(now: list[float]) -> None:
    clock = Clock()
    worked(clock, now, 3.0)
    clock.rest()
    now[0] += 3600.0
    assert worked(clock, now, 2.0).idle == 0.0


def test_work_adds_up_and_is_shared() -> None:
    assert (Spent(4.0, 2.0) + NOTHING + Spent(2.0, 1.0)) / 3 == Spent(2.0, 1.0)
