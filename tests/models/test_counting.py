"""What is counted without weights, against what real tensors take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from count_work import Moves, call
from torch.utils.flop_counter import FlopCounterMode

from latentsync_ray.levels import to_codes, to_uint8
from latentsync_ray.models.find import find_model
from latentsync_ray.models.latentsync import counting
from latentsync_ray.models.latentsync.counting import count_flops, empty_model, memory_of
from latentsync_ray.models.latentsync.model import load_model
from latentsync_ray.models.latentsync.specs import MODELS, WINDOW, Flops


@pytest.mark.parametrize(
    ("name", "guided"),
    [
        *(("latentsync-1.6", True), ("latentsync-1.5", False), ("nano", True), ("tiny-random", False)),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("latentsync-1.6", False), ("latentsync-1.5", True))),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("nano", False), ("tiny-random", True))),
    ],
)
def test_specs_hold_what_is_counted(name: str, guided: bool) -> None:
    known = MODELS[name].flops
    assert known is not None
    assert known[guided] == count_flops(MODELS[name], guided=guided)


def test_all_of_the_network_is_counted() -> None:
    """Against the form of it that is trained, as PyTorch counts it: sampling spares keys and values of the speech."""
    model = empty_model(MODELS["latentsync-1.5"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.unet(torch.empty(1, 13, WINDOW, 32, 32, device="meta"), 0, model.silence(1))
    whole = count_flops(MODELS["latentsync-1.5"], guided=False).whole
    assert 0.98 * counter.get_total_flops() < whole < counter.get_total_flops()


def test_guidance_doubles_the_network_but_for_what_it_computes_once() -> None:
    for spec in MODELS.values():
        assert spec.flops is not None
        plain, guided = spec.flops
        assert (guided.around, guided.encoding) == (plain.around, plain.encoding)
        assert 1.9 < guided.whole / plain.whole < 2
        assert 1.9 < guided.cached / plain.cached < 2


def test_arithmetic_of_a_window_follows_steps_and_cache() -> None:
    flops = Flops(whole=100, cached=7, around=50, encoding=20)
    assert flops.of(steps=20, cache_interval=1) == 20 * 100 + 50
    assert flops.of(steps=20, cache_interval=3) == 7 * 100 + 13 * 7 + 50


def test_deepcache_takes_two_fifths_of_the_network() -> None:
    assert MODELS["latentsync-1.5"].flops, "that it is what is counted, the test above says"
    flops = MODELS["latentsync-1.5"].flops[False]
    exact, cached = (flops.of(steps=20, cache_interval=interval) - flops.around for interval in (1, 3))
    assert cached / exact == pytest.approx(0.392, abs=0.001)


@pytest.mark.parametrize("windows", [1, 3])
def test_memory_is_that_of_real_tensors(windows: int) -> None:
    model = load_model("tiny-random", device="cpu", dtype="float32")
    parts: Any = model.unet, model.codec.vae, model.whisper
    with counting._Held() as held:
        for part in parts:
            held.see(part.parameters())
            held.see(part.buffers())
        to_uint8(call(model, windows, steps=2, guidance=1.5))
    foreseen = memory_of(MODELS["tiny-random"], windows=windows, guided=True, dtype="float32")
    assert foreseen == pytest.approx(held.most, rel=0.1)


def test_many_windows_are_reckoned_from_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    reckoned = memory_of(MODELS["latentsync-1.5"], windows=6, guided=True, dtype="bfloat16")
    monkeypatch.setattr(counting, "_TRACED", 6)
    memory_of.cache_clear()
    assert memory_of(MODELS["latentsync-1.5"], windows=6, guided=True, dtype="bfloat16") == pytest.approx(reckoned, rel=0.01)
    memory_of.cache_clear()


def test_memory_follows_the_number_format() -> None:
    half, whole = (memory_of(MODELS["latentsync-1.5"], windows=1, guided=False, dtype=each) for each in ("bfloat16", "float32"))
    assert 1.8 < whole / half < 2.0


def test_hardly_more_than_its_pixels_go_to_the_device_and_back() -> None:
    model, pixels, steps = empty_model(MODELS["tiny-random"]), WINDOW * 64 * 64 * 3, 4
    call(model, 1, steps=1)
    with Moves() as moves:
        made = call(model, 1, steps=steps)
    assert pixels <= moves.bytes <= pixels + 128 + 8 * steps, "which pictures a window shows, and when each step is"
    assert [to_bytes(torch.zeros(made.shape)).nbytes for to_bytes in (to_uint8, to_codes)] == [pixels, pixels]


def test_a_model_in_a_folder_is_counted_when_it_is_asked_for(small_model_folder: Any) -> None:
    info = find_model(str(small_model_folder))
    assert (info.flops(steps=4, guidance_scale=1.5, cache_interval=1) or 0) > 1e9
    assert (info.memory(windows=1, guidance_scale=1.5, dtype="auto") or 0) > 1e6
