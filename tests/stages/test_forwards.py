"""Windows of several callers in one call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from cutting import crops

from latentsync_ray.config import Recipe
from latentsync_ray.models.latentsync.latents import Latents
from latentsync_ray.models.latentsync.model import LatentSync
from latentsync_ray.stages.clock import Clock
from latentsync_ray.stages.forwards import Drawn, Forwards, Window
from latentsync_ray.stages.generate import Generate
from latentsync_ray.types import FaceCrops

SIZE = 3


class Device:
    """Doubles what it sees, in calls of one shape, one at a time; each waits until it is allowed."""

    def __init__(self, allowed: int = 1000) -> None:
        self.calls: list[tuple[int, Any]] = []
        self.allowed, self.here = threading.Semaphore(allowed), threading.Lock()

    def __call__(self, faces: np.ndarray, speech: Any, asked: tuple[Any, ...]) -> Drawn:
        assert self.here.acquire(blocking=False), "two calls at once"
        assert len(faces) == len(speech) == SIZE
        self.calls.append((len({int(face.flat[0]) for face in faces}), asked))
        assert self.allowed.acquire(timeout=20)
        self.here.release()
        if any(face.flat[0] == 98 for face in faces):
            raise RuntimeError("broken")
        made = [ValueError("a bad one") if face.flat[0] == 99 else 2 * face for face in faces]
        return made, [int(face.flat[0]) for face in faces]


def windows(*values: int, asked: tuple[Any, ...] = (1.0,)) -> list[Window]:
    return [Window(lambda value=value: np.full((2, 4, 4, 3), value, np.uint8), torch.zeros(2), asked) for value in values]


def made(forwards: Forwards, *values: int, **options: Any) -> list[int]:
    return [int(window.made.flat[0]) for window in forwards(windows(*values, **options)) if window.made is not None]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def busy(pool: ThreadPoolExecutor) -> tuple[Device, Forwards, Future[list[int]]]:
    """A device in the middle of the call for a window that shows 0."""
    device = Device(allowed=0)
    forwards = Forwards(device, SIZE)
    first = pool.submit(made, forwards, 0)
    until(lambda: len(device.calls) == 1)
    return device, forwards, first


def queued(pool: ThreadPoolExecutor, forwards: Forwards, *values: int, **options: Any) -> Future[list[int]]:
    """Somebody's windows, which wait behind those that do."""
    before = len(forwards._waiting)
    asked = pool.submit(made, forwards, *values, **options)
    until(lambda: len(forwards._waiting) == before + len(values))
    return asked


def test_calls_have_one_shape() -> None:
    device = Device()
    assert made(Forwards(device, SIZE), *range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert [count for count, _ in device.calls] == [3, 3, 1], "the last one is filled up"


def test_each_window_knows_what_it_was_spared() -> None:
    assert [window.spared for window in Forwards(Device(), SIZE)(windows(*range(5)))] == [0, 1, 2, 3, 4]


def test_who_waits_rides_along(pool: ThreadPoolExecutor) -> None:
    """While a call runs, two others come; their windows share the next."""
    device, forwards, first = busy(pool)
    others = [queued(pool, forwards, 2), queued(pool, forwards, 3, 4)]
    device.allowed.release(2)
    assert [each.result() for each in (first, *others)] == [[0], [4], [6, 8]]
    assert [count for count, _ in device.calls] == [1, 3]


def test_who_is_served_goes_on_while_the_device_works(pool: ThreadPoolExecutor) -> None:
    device, forwards, first = busy(pool)
    second = queued(pool, forwards, 1, 2, 3)
    device.allowed.release()
    assert first.result(timeout=20) == [0]
    until(lambda: len(device.calls) == 2)
    assert not second.done()
    device.allowed.release()
    assert second.result() == [2, 4, 6]


def test_who_is_served_does_not_wait_for_the_next_call(pool: ThreadPoolExecutor) -> None:
    device, forwards, first = busy(pool)
    taken: list[int] = []

    def take() -> None:
        for window in forwards(windows(1, 2, 3, 4)):
            assert window.made is not None
            taken.append(int(window.made.flat[0]))

    taking = pool.submit(take)
    until(lambda: len(forwards._waiting) == 4)
    queued(pool, forwards, 5, 6)
    device.allowed.release(2)
    assert first.result(timeout=20) == [0]
    until(lambda: len(device.calls) == 3)
    until(lambda: taken == [2, 4, 6])
    assert not taking.done(), "the device is in the call that makes the fourth"
    device.allowed.release()
    taking.result(timeout=20)


def test_others_have_the_device_in_between(pool: ThreadPoolExecutor) -> None:
    device, forwards, first = busy(pool)

    def listen() -> str:
        with forwards.device():
            assert device.here.acquire(blocking=False), "in the middle of a call"
            device.here.release()
        return "heard"

    listened = pool.submit(listen)
    assert not listened.done()
    device.allowed.release()
    assert (first.result(timeout=20), listened.result(timeout=20)) == ([0], "heard")


def test_other_settings_are_other_calls(pool: ThreadPoolExecutor) -> None:
    device, forwards, first = busy(pool)
    each = [queued(pool, forwards, *range(4), asked=(scale,)) for scale in (1.0, 1.5)]
    device.allowed.release(10)
    assert [one.result() for one in (first, *each)] == [[0], [0, 2, 4, 6], [0, 2, 4, 6]]
    assert sorted(device.calls[1:]) == [(1, (1.0,)), (1, (1.5,)), (3, (1.0,)), (3, (1.5,))]


def test_a_window_that_fails_is_its_callers_affair(pool: ThreadPoolExecutor) -> None:
    device, forwards, first = busy(pool)
    good, bad = queued(pool, forwards, 5), queued(pool, forwards, 99, 6)
    device.allowed.release(10)
    assert (first.result(), good.result()) == ([0], [10])
    with pytest.raises(ValueError, match="a bad one"):
        bad.result()
    assert made(forwards, 7) == [14], "nothing of it is left in the queue"


def test_a_call_that_breaks_is_the_affair_of_whose_windows_break_it(pool: ThreadPoolExecutor) -> None:
    device, forwards, first = busy(pool)
    good, bad, other = queued(pool, forwards, 2), queued(pool, forwards, 98), queued(pool, forwards, 3)
    device.allowed.release(10)
    assert (first.result(), good.result(), other.result()) == ([0], [4], [6])
    with pytest.raises(RuntimeError, match="broken"):
        bad.result()
    assert [count for count, _ in device.calls] == [1, 3, 1, 1, 1], "once together, then each alone"
    assert made(forwards, 7) == [14]


def test_who_has_enough_leaves_nothing_behind() -> None:
    device = Device()
    forwards = Forwards(device, SIZE)
    for _ in forwards(windows(*range(9))):
        break
    assert made(forwards, 1) == [2]
    assert len(device.calls) == 2


@pytest.fixture(scope="module")
def segments() -> list[FaceCrops]:
    """Of three clips, of 20, 33 and 8 frames; the second has its own guidance."""
    random = np.random.default_rng(1)
    made = []
    for count in (20, 33, 8):
        clip, mel = random.integers(0, 256, (count, 64, 64, 3), np.uint8), random.normal(size=(1, 80, 3000)).astype(np.float32)
        made.append(crops(0, count, clip, np.ones(count, np.bool_), mel))
    return [made[0], replace(made[1], guidance_scale=1.5), made[2]]


def test_company_changes_no_bit(segments: list[FaceCrops], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = Generate(Recipe(model="tiny-random", steps=1, cpu_threads=1, micro_batch=3), "cpu")
    alone = [generate(segment).faces for segment in segments]
    cast("LatentSync", generate.model).latents = Latents(0)  # or company would be tried with pictures that are encoded already
    forwards, companies = generate._forwards, list[int]()
    forward = forwards._forward

    def together() -> None:
        """When all six windows have come, those that share a call."""
        until(lambda: len(forwards._waiting) == 6 or bool(companies))
        asked = forwards._waiting[0].asked
        faces: list[Any] = [window.faces for window in forwards._waiting if window.asked == asked]
        companies.append(len({id(each.args[0]) for each in faces[:3]}))
        forward()

    monkeypatch.setattr(forwards, "device", Clock().work)  # or they could not all come
    monkeypatch.setattr(forwards, "_forward", together)
    for order in ([0, 1, 2], [2, 1, 0]):
        companies.clear()
        made = [pool.submit(generate, segments[number]) for number in order]
        for number, one in zip(order, made, strict=True):
            assert np.array_equal(one.result().faces, alone[number])
        assert sorted(companies) == [1, 2], "two segments were in one call"
