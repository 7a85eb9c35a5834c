"""Generate: the window grid, gaps, and independence of how the clip was cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from cutting import crops

from latentsync_ray.config import Recipe
from latentsync_ray.errors import ModelError, NotFinite, OutOfMemory
from latentsync_ray.models.latentsync.denoise import denoise as model_denoise
from latentsync_ray.models.latentsync.model import LatentSync
from latentsync_ray.models.latentsync.specs import MODELS, Flops
from latentsync_ray.stages.generate import Generate, fill_gaps, window_frames
from latentsync_ray.stages.plan import segment_stops
from latentsync_ray.types import FaceCrops, GeneratedFaces


@pytest.mark.parametrize("size", [16, 5])
@pytest.mark.parametrize("frame_count", [1, 7, 16, 17, 31, 32, 33, 128, 143])
def test_windows_are_whole_and_cover_all(frame_count: int, size: int) -> None:
    windows = window_frames(frame_count, size)
    assert all(window.shape == (size,) for window in windows)
    assert set(np.concatenate(windows).tolist()) == set(range(frame_count))
    if frame_count >= size:
        assert all((np.diff(window) == 1).all() for window in windows)


def test_gaps_take_the_nearest_face_of_the_window() -> None:
    found = np.zeros(32, np.bool_)
    found[[2, 5, 9]] = True
    shown = fill_gaps(np.arange(16), found)
    assert shown.tolist() == [2, 2, 2, 2, 5, 5, 5, 5, 9, 9, 9, 9, 9, 9, 9, 9]


@pytest.fixture(scope="module")
def generate() -> Generate:
    return Generate(Recipe(model="tiny-random", steps=2, cpu_threads=1), "cpu")


def test_faces_do_not_depend_on_the_segment_length(generate: Generate) -> None:
    frame_count, rng = 84, np.random.default_rng(0)
    clip = rng.integers(0, 256, (frame_count, 64, 64, 3), dtype=np.uint8)
    mel = rng.normal(size=(1, 80, 3000)).astype(np.float32)
    found = np.ones(frame_count, np.bool_)
    found[40:60] = False

    def dub(segment_frames: int) -> np.ndarray:
        cast("LatentSync", generate.model).latents.forget()
        stops = segment_stops(frame_count, segment_frames, 16).tolist()
        made = [generate(crops(start, stop, clip, found, mel)) for start, stop in zip([0, *stops], stops, strict=False)]
        return np.concatenate([faces.faces for faces in made])

    long, short = dub(96), dub(48)
    assert len(long) == found.sum()
    assert np.array_equal(long, short)
    assert not np.array_equal(long, clip[found])


def test_a_segment_without_a_face_is_left_alone(generate: Generate) -> None:
    clip = np.zeros((16, 64, 64, 3), np.uint8)
    segment = crops(0, 16, clip, np.zeros(16, np.bool_), np.zeros((0, 80, 3000), np.float32))
    made = generate(segment)
    assert isinstance(made, GeneratedFaces)
    assert made.missing == 16
    assert len(made.faces) == 0


def test_micro_batch_padding_reaches_every_window() -> None:
    rng = np.random.default_rng(1)
    clip = rng.integers(0, 256, (80, 64, 64, 3), dtype=np.uint8)
    segment = crops(0, 80, clip, np.ones(80, np.bool_), rng.normal(size=(1, 80, 3000)).astype(np.float32))
    one, three = (
        Generate(Recipe(model="tiny-random", steps=1, cpu_threads=1, micro_batch=n), "cpu")(segment).faces for n in (1, 3)
    )
    assert (np.abs(one.astype(int) - three) <= 2).mean() > 0.99
    assert all(not np.array_equal(three[i], clip[i]) for i in range(80))


def overflowing(generate: Generate, monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None) -> None:
    """From now on what is guided gives NaN, or meets a failure of the device; the rest goes well."""

    def denoise(*args: Any, guidance_scale: float, **options: Any) -> Iterator[torch.Tensor]:
        if guidance_scale > 1 and failure:
            raise failure
        for latents in model_denoise(*args, guidance_scale=guidance_scale, **options):
            yield latents * torch.nan if guidance_scale > 1 else latents

    monkeypatch.setattr("latentsync_ray.models.latentsync.model.denoise", denoise)


NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


@pytest.mark.parametrize(("failure", "error"), [(None, NotFinite), (NO_MEMORY, OutOfMemory)])
def test_what_one_clip_cannot_have_is_its_own_failure(
    generate: Generate, monkeypatch: pytest.MonkeyPatch, failure: Exception | None, error: type[Exception]
) -> None:
    clip, mel = np.zeros((16, 64, 64, 3), np.uint8), np.zeros((1, 80, 3000), np.float32)
    segment = crops(0, 16, clip, np.ones(16, np.bool_), mel)
    overflowing(generate, monkeypatch, failure)
    with pytest.raises(error):
        generate(replace(segment, guidance_scale=1.5))
    assert generate(segment).faces.any(), "the worker goes on with others"


@pytest.mark.parametrize("failure", [None, NO_MEMORY])
def test_what_no_clip_can_have_stops_the_job(
    generate: Generate, monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    clip, mel = np.zeros((16, 64, 64, 3), np.uint8), np.zeros((1, 80, 3000), np.float32)
    segment = crops(0, 16, clip, np.ones(16, np.bool_), mel)
    overflowing(generate, monkeypatch, failure)
    monkeypatch.setattr(generate, "recipe", generate.recipe.model_copy(update={"guidance_scale": 1.5}))
    with pytest.raises(ModelError, match=r"no clip can be dubbed: tiny-random (gave numbers|at 64 px)"):
        generate(replace(segment, guidance_scale=1.5))


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        (
            lambda faces: torch.from_numpy(faces).float()[:, :, ::2],
            r"gave torch\.float32\(1, 16, 32, 64, 3\), and not float32\(1, 16, 64, 64, 3\)",
        ),
        (torch.from_numpy, r"gave torch\.uint8\(1, 16, 64, 64, 3\), and not float32"),
        (lambda faces: faces.astype(np.float32), r"gave float32\(1, 16, 64, 64, 3\), and not float32"),
    ],
)
def test_what_a_model_gives_is_looked_at(generate: Generate, monkeypatch: pytest.MonkeyPatch, gives: Any, told: str) -> None:
    segment = crops(0, 16, np.zeros((16, 64, 64, 3), np.uint8), np.ones(16, np.bool_), np.zeros((1, 80, 3000), np.float32))
    monkeypatch.setattr(generate.model, "generate", lambda faces, *_, **__: gives(faces))
    with pytest.raises(ModelError, match=told):
        generate(segment)


def a_segment(frames: int = 40, **asked: Any) -> FaceCrops:
    """Noise, and noise that is heard."""
    rng = np.random.default_rng(5)
    clip = rng.integers(0, 256, (frames, 64, 64, 3), dtype=np.uint8)
    mel = rng.normal(size=(1, 80, 3000)).astype(np.float32)
    return replace(crops(0, frames, clip, np.ones(frames, np.bool_), mel), **asked)


def flops_of(name: str) -> tuple[Flops, Flops]:
    """Without guidance, and with it."""
    flops = MODELS[name].flops
    assert flops is not None
    return flops


def test_what_it_took_is_in_the_row(generate: Generate) -> None:
    generate.rest()
    cast("LatentSync", generate.model).latents.forget()
    made, again = generate(a_segment()), generate(a_segment(guidance_scale=1.5))
    once, guided = flops_of("tiny-random")
    picture = once.encoding / 16  # masked and whole
    first = 3 * (2 * once.whole + once.around) - 8 * picture
    assert made.tflop == pytest.approx(first / 1e12), "three windows, two of which share 8 pictures"
    second = 3 * (2 * guided.whole + guided.around - 16 * picture)
    assert again.tflop == pytest.approx(second / 1e12), "all pictures are encoded already"
    assert made.generate_seconds > 0
    assert again.idle_seconds > 0, "between its calls, and since the last segment"
    assert (made.micro_batch, made.precision) == (1, "cpu float32")
    assert made.card.startswith("cpu ")


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
def test_all_work_is_counted_once_however_windows_are_packed(generate: Generate, micro_batch: int) -> None:
    recipe = generate.recipe.model_copy(update={"micro_batch": micro_batch})
    packed = Generate(recipe, model=generate.model)
    cast("LatentSync", generate.model).latents.forget()
    made = packed(a_segment())
    flops = flops_of("tiny-random")[0]
    assert made.tflop == pytest.approx((3 * (2 * flops.whole + flops.around) - 8 * flops.encoding / 16) / 1e12)


def test_what_a_model_says_of_too_few_windows_is_refused(generate: Generate) -> None:
    class Boaster(Compiled):
        spared = (1, 2)

    with pytest.raises(ModelError, match="says of 2 windows what they were spared, and made 1"):
        Generate(generate.recipe, model=cast("Any", Boaster(generate.model)))(a_segment())


def test_windows_in_a_call_are_part_of_what_bits_depend_on() -> None:
    three = Generate(Recipe(model="tiny-random", steps=1, cpu_threads=1, micro_batch=3), "cpu")
    made = three(a_segment())
    assert (made.micro_batch, made.precision) == (3, "cpu float32, 3 windows")


def test_what_cannot_fit_is_refused_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentsync_ray.models.latentsync.model.load", lambda *_, **__: pytest.fail("loaded"))
    recipe = Recipe(model="nano", micro_batch=8)
    with pytest.raises(ModelError, match=r"nano takes .* 8 windows .*, and the device has 0.15 GB: set recipe.micro_batch"):
        Generate(recipe, "cpu", memory=1.5e8)


class Compiled:
    """A model that can be compiled, and notes what it is asked for."""

    def __init__(self, model: Any) -> None:
        self._model, self.done = model, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def compile(self) -> None:
        self.done.append("compile")

    def generate(self, faces: np.ndarray, speech: torch.Tensor, **asked: Any) -> torch.Tensor:
        self.done.append(f"generate {len(faces)}")
        return self._model.generate(faces, speech, **asked)


def test_a_model_is_compiled_when_it_starts(generate: Generate) -> None:
    model: Any = Compiled(generate.model)
    Generate(Recipe(model="tiny-random", steps=1, cpu_threads=1, compile=True, micro_batch=2), model=model)
    assert model.done == ["compile", "generate 2"]
