"""``recipe.micro_batch`` as a number, and what cannot fit."""

from __future__ import annotations

from typing import Any, cast

import pytest

from latentsync_ray import ModelError, Recipe
from latentsync_ray.models import ModelInfo
from latentsync_ray.models.find import find_model
from latentsync_ray.models.fitting import windows_together

GB = 1_000_000_000


class Info:
    """A model that takes 2 GB, and 1 GB a window; 2 with guidance."""

    name = "some"

    def memory(self, *, windows: int, guidance_scale: float, dtype: str) -> int:
        self.dtype = dtype
        return (2 + windows * (2 if guidance_scale > 1 else 1)) * GB


def together(gigabytes: float | None, device: str = "cuda", info: Any = None, **recipe: Any) -> int:
    return windows_together(cast(ModelInfo, info or Info()), Recipe(**recipe), device, gigabytes and gigabytes * GB)


@pytest.mark.parametrize(("gigabytes", "windows"), [(80, 4), (13, 4), (12, 3), (8, 2), (5, 1), (4.5, 1)])
def test_auto_takes_what_fits_with_guidance_and_room_to_spare(gigabytes: float, windows: int) -> None:
    assert together(gigabytes) == windows


def test_auto_is_one_where_nothing_is_known_and_on_a_processor() -> None:
    assert together(None) == 1
    assert together(80, "cpu") == 1
    unknown = type("Unknown", (), {"name": "toy", "memory": lambda self, **_: None})()
    assert together(80, info=unknown) == 1
    assert together(0.1, info=unknown, micro_batch=8) == 8


def test_what_cannot_fit_is_refused_with_what_does() -> None:
    assert together(10, micro_batch=8) == 8
    with pytest.raises(
        ModelError, match=r"some takes about 11 GB .* 9 windows .*, and the device has 10 GB: .*micro_batch to 6 or"
    ):
        together(10, micro_batch=9)
    with pytest.raises(
        ModelError, match=r"12 GB .* 5 windows of frames at once with guidance, .*: set recipe.micro_batch to 3 or"
    ):
        together(11, micro_batch=5, guidance_scale=1.5)
    for asked in ("auto", 1, 3):
        with pytest.raises(ModelError, match=r"the device has 2.5 GB: take a larger device, or a smaller model"):
            together(2.5, micro_batch=asked)


@pytest.mark.parametrize("needed", [0, -1, float("nan"), "2 GB"])
def test_what_is_no_number_of_bytes_is_a_bug_of_the_model(needed: Any) -> None:
    info = type("Wrong", (), {"name": "wrong", "memory": lambda self, **_: needed})()
    with pytest.raises(ModelError, match=r"says that it takes .* bytes; its code has a bug"):
        together(80, info=info)


def test_one_window_is_no_plural() -> None:
    with pytest.raises(ModelError, match="to make 1 window of frames at once, and"):
        together(2.5)


@pytest.mark.parametrize(
    ("dtype", "device", "reckoned"), [("auto", "cpu", "float32"), ("auto", "cuda", "auto"), ("float16", "cpu", "float16")]
)
def test_numbers_are_those_that_the_device_uses(dtype: str, device: str, reckoned: str) -> None:
    info = Info()
    together(80, device, info, dtype=dtype)
    assert info.dtype == reckoned


@pytest.mark.parametrize(("gigabytes", "windows"), [(8, 1), pytest.param(16, 3, marks=pytest.mark.slow)])
def test_the_largest_model_on_cards_that_people_have(gigabytes: float, windows: int) -> None:
    assert windows_together(find_model("latentsync-1.6"), Recipe(), "cuda", gigabytes * GB) == windows
