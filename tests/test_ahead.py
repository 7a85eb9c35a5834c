"""Work ahead of its taker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from latentsync_ray.ahead import ahead

Give = Callable[[Any], None]


def numbers(give: Give) -> None:
    for number in range(5):
        give(number)


def living() -> int:
    return sum(thread.name == "ahead" for thread in threading.enumerate())


def test_everything_comes_in_order() -> None:
    assert list(ahead(numbers)) == [0, 1, 2, 3, 4]
    assert list(ahead(lambda give: None)) == []


def test_it_works_while_its_taker_does() -> None:
    made: list[int] = []

    def work(give: Give) -> None:
        for number in range(5):
            made.append(number)
            give(number)

    for number in ahead(work):
        deadline = time.monotonic() + 10
        while len(made) < min(5, number + 3) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(made) == min(5, number + 3), "one waits, one is being given"


def test_news_never_wait() -> None:
    told = threading.Event()

    def work(give: Give) -> None:
        for number in range(100):
            give(number)
        told.set()

    taken = ahead(work, news=lambda number: number > 0)
    assert next(taken) == 0
    assert told.wait(10)
    assert list(taken) == list(range(1, 100))


def test_a_thread_that_does_not_hear_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentsync_ray.ahead._PATIENCE_SECONDS", 0.1)
    hold = threading.Event()

    def work(give: Give) -> None:
        give(1)
        hold.wait(20)

    taken = ahead(work)
    next(taken)
    taken.close()
    assert living() == 1
    hold.set()


def test_what_it_raises_comes_after_what_it_gave() -> None:
    def work(give: Give) -> None:
        give(1)
        raise ZeroDivisionError("here")

    taken = []
    with pytest.raises(ZeroDivisionError, match="here"):
        taken.extend(ahead(work))
    assert living() == 0


def test_who_stops_taking_ends_the_work() -> None:
    ended = threading.Event()

    def work(give: Give) -> None:
        try:
            while True:
                give(1)
        finally:
            ended.set()

    for _ in ahead(work):
        break
    assert ended.wait(10)
    assert living() == 0


def test_one_in_the_other_ends_too() -> None:
    def forever(give: Give) -> None:
        while True:
            give(1)

    def passed_on(give: Give) -> None:
        for each in ahead(forever):
            give(each)

    for _ in ahead(passed_on):
        break
    deadline = time.monotonic() + 10
    while living() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert living() == 0
