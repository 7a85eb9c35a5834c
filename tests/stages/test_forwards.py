"""Windows of several callers in one call."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cutting import crops

from latentsync_ray.config import Recipe
from latentsync_ray.stages.forwards import Forwards, Window
from latentsync_ray.stages.generate import Generate
from latentsync_ray.types import FaceCrops

SIZE = 3


class Device:
    """Doubles what it sees, in calls of one shape, one at a time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[tuple[int, Any]] = []
        self.seconds, self.busy, self.here = seconds, 0.0, threading.Lock()

    def __call__(self, faces: np.ndarray, speech: Any, asked: tuple[Any, ...]) -> Sequence[np.ndarray | Exception]:
        assert self.here.acquire(blocking=False), "two calls at once"
        assert len(faces) == len(speech) == SIZE
        began = time.perf_counter()
        time.sleep(self.seconds)
        self.calls.append((len({int(face.flat[0]) for face in faces}), asked))
        self.busy += time.perf_counter() - began
        self.here.release()
        return [ValueError("a bad one") if face.flat[0] == 99 else 2 * face for face in faces]


def windows(*values: int, asked: tuple[Any, ...] = (1.0,)) -> list[Window]:
    return [Window(lambda value=value: np.full((2, 4, 4, 3), value, np.uint8), torch.zeros(2), asked) for value in values]


def made(forwards: Forwards, *values: int, **options: Any) -> list[int]:
    return [int(window.made.flat[0]) for window in forwards(windows(*values, **options)) if window.made is not None]


def test_calls_have_one_shape() -> None:
    device = Device()
    assert made(Forwards(device, SIZE), *range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert [count for count, _ in device.calls] == [3, 3, 1], "the last one is filled up"


def test_who_waits_rides_along() -> None:
    """While the first call runs, two others come; their windows share the next."""
    device = Device(0.2)
    forwards = Forwards(device, SIZE)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(made, forwards, 1)
        time.sleep(0.05)
        others = [pool.submit(made, forwards, *values) for values in ((2,), (3, 4))]
        assert [first.result(), *(each.result() for each in others)] == [[2], [4], [6, 8]]
    assert [count for count, _ in device.calls] == [1, 3]


def test_other_settings_are_other_calls() -> None:
    device = Device(0.1)
    forwards = Forwards(device, SIZE)
    with ThreadPoolExecutor() as pool:
        each = [pool.submit(made, forwards, *range(4), asked=(scale,)) for scale in (1.0, 1.5)]
        assert [one.result() for one in each] == [[0, 2, 4, 6]] * 2
    assert sorted(device.calls) == [(1, (1.0,)), (1, (1.5,)), (3, (1.0,)), (3, (1.5,))]


def test_a_window_that_fails_is_its_callers_affair() -> None:
    device = Device(0.1)
    forwards = Forwards(device, SIZE)
    with ThreadPoolExecutor() as pool:
        busy = pool.submit(made, forwards, 0)
        time.sleep(0.03)
        good, bad = pool.submit(made, forwards, 5), pool.submit(made, forwards, 99, 6)
        assert (busy.result(), good.result()) == ([0], [10])
        with pytest.raises(ValueError, match="a bad one"):
            bad.result()
    assert made(forwards, 7) == [14], "nothing of it is left in the queue"


def test_who_has_enough_leaves_nothing_behind() -> None:
    device = Device()
    forwards = Forwards(device, SIZE)
    for _ in forwards(windows(*range(9))):
        break
    assert made(forwards, 1) == [2]
    assert len(device.calls) == 2


@pytest.mark.parametrize(("ratio", "least"), [(10, 0.97), (2, 0.9)])
def test_the_device_never_waits_for_what_threads_can_do(ratio: float, least: float) -> None:
    """Three threads, as in a model worker: each takes a fraction of the device's time for itself, before and after."""
    device = Device(0.04)
    forwards, host = Forwards(device, SIZE), 0.04 / ratio

    def segment(number: int) -> None:
        time.sleep(host / 2)
        assert made(forwards, number, number + 1, number + 2) == [2 * number, 2 * number + 2, 2 * number + 4]
        time.sleep(host / 2)

    with ThreadPoolExecutor(3) as pool:
        began = time.perf_counter()
        list(pool.map(segment, range(40)))
        spent = time.perf_counter() - began - host  # the first has to come, the last to go
    share = device.busy / spent
    assert share > least - 0.12, "a busy machine; the figures are those of jobs/bench.py"


@pytest.fixture(scope="module")
def segments() -> list[FaceCrops]:
    """Of three clips, of 20, 33 and 8 frames; the second has its own guidance."""
    random = np.random.default_rng(1)
    made = []
    for count in (20, 33, 8):
        clip, mel = random.integers(0, 256, (count, 64, 64, 3), np.uint8), random.normal(size=(1, 80, 3000)).astype(np.float32)
        made.append(crops(0, count, clip, np.ones(count, np.bool_), mel))
    return [made[0], replace(made[1], guidance_scale=1.5), made[2]]


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_company_changes_no_bit(segments: list[FaceCrops], micro_batch: int) -> None:
    generate = Generate(Recipe(model="tiny-random", steps=1, cpu_threads=1, micro_batch=micro_batch), "cpu")
    alone = [generate(segment).faces for segment in segments]
    for order in (segments, segments[::-1]):
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(generate, order))
        for segment, one in zip(order, together, strict=True):
            number = next(place for place, each in enumerate(segments) if each is segment)
            assert np.array_equal(one.faces, alone[number])
