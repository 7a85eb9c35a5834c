"""The shipped model lip-syncs: held-out voices on a head that says something else, through the whole pipeline.

The sentences in ``golden/speech`` are the held-out ones of ``latentsync_ray/nano/training/speech.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendered import Rendered

from latentsync_ray import LipSync, Pair, Recipe
from latentsync_ray.media.speech import SAMPLE_RATE, decode_speech, read_speech
from latentsync_ray.models.latentsync.source import find_spec, locate
from latentsync_ray.models.latentsync.specs import MODELS
from latentsync_ray.nano.evaluate import Score, Take, aligned, make_take, read_clip, score_take, write_ceiling, write_take
from latentsync_ray.nano.portrait import Light, read_aperture
from latentsync_ray.types import ClipRecord, FaceCrops

RECIPE = Recipe(model="nano", steps=6)
SECONDS = 3.2


@pytest.fixture(scope="module")
def voices(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    sounds = []
    for path in sorted((golden / "speech").glob("*.flac")):
        raw = tmp_path_factory.mktemp("speech") / "speech.raw"
        decode_speech(path, raw, max_seconds=60)
        sounds.append(np.array(read_speech(raw)))
    return sounds


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> LipSync:
    return LipSync(str(tmp_path_factory.mktemp("nano")), recipe=RECIPE)


@pytest.fixture(scope="module")
def take(voices: list[np.ndarray]) -> Take:
    return Rendered.of(make_take(voices[1], voices[0][: int(SECONDS * SAMPLE_RATE)], seed=11, light=Light.random(1)))


Dub = Callable[..., ClipRecord]


@pytest.fixture(scope="module")
def dub(nano: LipSync, tmp_path_factory: pytest.TempPathFactory) -> Dub:
    def dub(take: Take, name: str, **settings: Any) -> ClipRecord:
        pair = write_take(take, tmp_path_factory.mktemp(name))
        record = nano(Pair(clip_id=name, video=str(pair[0]), audio=str(pair[1]), **settings))
        assert record.status == "ok", record.error
        return record

    return dub


@pytest.fixture(scope="module")
def dubbed(dub: Dub, take: Take) -> ClipRecord:
    return dub(take, "dubbed")


def crops_of(record: ClipRecord, folder: Path) -> list[FaceCrops]:
    return aligned(Path(record.video), Path(record.audio), folder, recipe=RECIPE)


@pytest.fixture(scope="module")
def crops(dubbed: ClipRecord, tmp_path_factory: pytest.TempPathFactory) -> list[FaceCrops]:
    return crops_of(dubbed, tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="module")
def score(dubbed: ClipRecord, take: Take, crops: list[FaceCrops]) -> Score:
    return score_take(take, Path(str(dubbed.output)), crops)


def test_lips_follow_speech_that_was_never_heard(score: Score) -> None:
    assert score.correlation >= 0.85
    assert score.lag == 0
    assert abs(score.source_correlation) <= 0.2
    assert score.seam <= 1


def test_the_record_says_that_they_do(dubbed: ClipRecord) -> None:
    assert dubbed.sync_correlation is not None
    assert dubbed.sync_correlation > 0.4
    assert dubbed.sync_lag_ms is not None
    assert abs(dubbed.sync_lag_ms) <= 40
    assert dubbed.sync_score is not None
    assert dubbed.sync_score > 0.8
    assert dubbed.sync_offset_ms is not None
    assert abs(dubbed.sync_offset_ms) <= 40


@pytest.fixture(scope="module")
def lost(
    nano: LipSync,
    dubbed: ClipRecord,
    take: Take,
    crops: list[FaceCrops],
    score: Score,
    tmp_path_factory: pytest.TempPathFactory,
) -> float:
    """dB by which the dubbed mouth is worse than what the autoencoder makes of the truth."""
    best = tmp_path_factory.mktemp("ceiling") / "best.mp4"
    write_ceiling(take, Path(dubbed.audio), crops, best, model=nano.model, recipe=RECIPE)
    return score_take(take, best, crops).mouth_psnr - score.mouth_psnr


def test_the_mouth_is_little_worse_than_its_autoencoder(lost: float) -> None:
    assert 0 < lost <= 3, "dB; of the six clips in the model's card the worst loses 2.5"


def test_silence_closes_the_mouth(dub: Dub, voices: list[np.ndarray]) -> None:
    take = make_take(voices[1], np.zeros(int(1.28 * SAMPLE_RATE), np.int16), seed=7)
    record = dub(take, "silence")
    assert read_aperture(read_clip(Path(str(record.output))), pose=take.wanted.pose).max() < 0.05
    assert record.sync_correlation is None
    assert record.sync_score is None


def test_guided_lips_follow_too(dub: Dub, take: Take, tmp_path: Path) -> None:
    """That guidance changes the clip, ``test_local.py`` says."""
    short = Rendered.of(make_take(take.speech[::-1].copy(), take.speech[: int(1.28 * SAMPLE_RATE)], seed=5))
    record = dub(short, "guided", guidance_scale=2.0)
    assert record.guidance_scale == 2
    assert score_take(short, Path(str(record.output)), crops_of(record, tmp_path)).correlation >= 0.85


def test_it_is_small_and_complete() -> None:
    folder = Path(MODELS["nano"].source)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10_000_000
    assert locate(MODELS["nano"]).unet.parent == folder


def test_the_folder_describes_the_model_that_has_its_name() -> None:
    named, described = MODELS["nano"], find_spec(MODELS["nano"].source)
    assert described is not None
    assert (described.resolution, described.unet) == (named.resolution, named.unet)
