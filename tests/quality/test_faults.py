"""Faults planted into what a model draws are found in the record, by the whole pipeline.

One clip here; ``jobs/judge_quality.py`` holds twenty undamaged clips against each fault.
"""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import numpy as np
import pytest

from latentsync_ray import Pair, Recipe
from latentsync_ray.media.speech import SAMPLE_RATE, write_wav
from latentsync_ray.models.find import find_model
from latentsync_ray.nano.evaluate import Take, aligned, make_take, write_take
from latentsync_ray.nano.evaluate.stand_ins import DAMAGES, Damaged, Known, dub_with, truth_of
from latentsync_ray.quality.verdict import COLUMNS
from latentsync_ray.types import ClipRecord

RECIPE = Recipe(model="nano", detector="embedded", segment_frames=48)
FRAMES = 56
"""Two segments."""


def voice(seed: int, count: int) -> np.ndarray:
    """Syllables of noise, int16: a mouth opens and closes with them."""
    draw, time = np.random.default_rng(seed), np.arange(count) / SAMPLE_RATE
    loud = np.clip(np.sin(2 * np.pi * 3.3 * time + seed) + 0.4 * np.sin(2 * np.pi * 1.1 * time), 0, 1)
    return (draw.normal(0, 4000, count) * loud).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def take() -> Take:
    count = FRAMES * SAMPLE_RATE // 25
    return make_take(voice(1, count), voice(2, count), seed=5, size=256, motion=0.5)


@pytest.fixture(scope="module")
def pair(take: Take, folder: Path) -> Pair:
    video, audio = write_take(take, folder)
    return Pair(clip_id="a", video=video, audio=audio)


@pytest.fixture(scope="module")
def perfect(take: Take, pair: Pair, folder: Path) -> Known:
    crops = aligned(Path(pair.video), Path(pair.audio), folder / "aligned", recipe=RECIPE)
    return Known(find_model("nano"), truth_of(take, crops, find_model("nano")))


@pytest.fixture(scope="module")
def undamaged(perfect: Known, pair: Pair, folder: Path) -> ClipRecord:
    return dub_with(perfect, pair, folder, recipe=RECIPE)


def columns(record: ClipRecord) -> dict[str, float | None]:
    return {name: value for name, value in record.to_row().items() if name.removesuffix("_frame") in COLUMNS}


def test_an_undamaged_clip_reads_well(undamaged: ClipRecord) -> None:
    assert (undamaged.status, undamaged.frames, undamaged.frames_without_face) == ("ok", FRAMES, 0)
    assert (undamaged.frames_no_face, undamaged.frames_covered, undamaged.frames_not_speaker) == (0, 0, 0)
    assert undamaged.seam is not None
    assert undamaged.sharpness is not None
    assert undamaged.flicker is not None
    assert undamaged.identity is not None
    assert undamaged.skin_shift is not None
    assert undamaged.speech_motion is not None
    assert undamaged.seam < 4.5
    assert undamaged.sharpness > 0.8
    assert undamaged.flicker < 1.4
    assert undamaged.identity > 0.8
    assert undamaged.skin_shift < 1.1
    assert undamaged.speech_motion > 2


@pytest.mark.parametrize(
    ("fault", "between"),
    [
        ("mouth frozen", {"speech_motion": (0, 0.4)}),
        ("mouth blurred (sigma 3)", {"sharpness": (0, 0.5)}),
        ("patch 6 px right", {"identity": (-1, 0.6)}),
        ("patch 6 px down", {"identity": (-1, 0.8), "seam": (5, 100)}),
        pytest.param("8 levels red", {"skin_shift": (1.5, 100)}, marks=pytest.mark.slow),
        ("8 levels blue", {"skin_shift": (1.5, 100)}),
        ("8 levels brighter", {"skin_shift": (1.5, 100), "seam": (6, 100)}),
        ("every third frame original", {"flicker": (2.5, 100)}),
    ],
)
def test_a_fault_is_seen(perfect: Known, pair: Pair, folder: Path, fault: str, between: dict[str, tuple[float, float]]) -> None:
    record = dub_with(Damaged(perfect, DAMAGES[fault]()), pair, folder, recipe=RECIPE)
    for column, (low, high) in between.items():
        assert low <= getattr(record, column) <= high


def test_cuts_change_no_figure(undamaged: ClipRecord, perfect: Known, pair: Pair, folder: Path) -> None:
    whole = dub_with(perfect, pair, folder, recipe=RECIPE.model_copy(update={"segment_frames": 64}))
    assert columns(whole) == columns(undamaged)


def test_the_own_mouth_reads_best(pair: Pair, folder: Path) -> None:
    record = dub_with(Known(find_model("nano")), pair, folder, recipe=RECIPE)
    assert record.flicker == pytest.approx(0, abs=0.1)
    assert record.skin_shift == pytest.approx(0, abs=0.7)
    assert (record.identity or 0) > 0.97


def test_a_mouth_that_talks_to_silence(take: Take, pair: Pair, folder: Path) -> None:
    """Left as it was it reads as badly as while it speaks; one that stays shut reads well."""
    audio = folder / "silent.wav"
    write_wav(audio, np.zeros(SAMPLE_RATE, np.int16))
    still = dc.replace(take, wanted=dc.replace(take.wanted, aperture=0 * take.wanted.aperture))
    crops = aligned(Path(pair.video), audio, folder / "aligned", recipe=RECIPE)
    info, silent = find_model("nano"), Pair(clip_id="silent", video=pair.video, audio=audio)
    shut = Known(info, truth_of(still, crops, info))
    own, new = (dub_with(model, silent, folder, recipe=RECIPE) for model in (Known(info), shut))
    assert own.silence_motion == pytest.approx(1, abs=0.1)
    assert new.silence_motion is not None
    assert new.silence_motion < 0.35
    assert (new.speech_motion, own.speech_motion) == (None, None)
