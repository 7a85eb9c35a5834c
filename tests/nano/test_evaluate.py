"""The measure against the truth: perfect for the truth, and every fault shows in the number that is meant for it."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from make_clips import speech_like
from rendered import Rendered

from latentsync_ray.config import Recipe
from latentsync_ray.media.speech import SAMPLE_RATE
from latentsync_ray.models.latentsync.template import template
from latentsync_ray.nano.evaluate import Score, Take, aligned, make_take, read_clip, score_take, write_portrait, write_take
from latentsync_ray.types import FaceCrops

SIZE, SIDE = 256, 128


def syllables(seed: int, seconds: float) -> np.ndarray:
    """Sound that opens and closes the mouth at random, int16 (samples,)."""
    knots = np.random.default_rng(seed).uniform(-0.5, 1, int(6 * seconds) + 1)
    loud = np.interp(np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE * 6, np.arange(len(knots)), np.clip(knots, 0, 1))
    return (speech_like(seconds)[:, 0] * loud).astype(np.int16)


@pytest.fixture(scope="module")
def take() -> Take:
    return Rendered.of(make_take(syllables(1, 3), syllables(2, 2.4), seed=3, size=SIZE))


@pytest.fixture(scope="module")
def pair(take: Take, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_take(take, tmp_path_factory.mktemp("take"))


@pytest.fixture(scope="module")
def crops(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[FaceCrops]:
    return aligned(*pair, tmp_path_factory.mktemp("aligned"), recipe=Recipe(model="nano"))


@pytest.fixture
def scored(
    take: Take, pair: tuple[Path, Path], crops: list[FaceCrops], tmp_path: Path
) -> Callable[[Iterable[np.ndarray]], Score]:
    def score(frames: Iterable[np.ndarray]) -> Score:
        write_portrait(tmp_path / "dubbed.mp4", frames, pair[1])
        return score_take(take, tmp_path / "dubbed.mp4", crops)

    return score


def test_the_truth_is_perfect(take: Take, scored) -> None:
    score = scored(take.truth())
    assert score.correlation > 0.97
    assert score.lag == 0
    assert abs(score.source_correlation) < 0.2
    assert score.aperture_error < 0.02  # what encoding costs; another mouth has 0.13
    assert score.mouth_psnr > 33  # what encoding leaves
    assert abs(score.seam) < 2  # not zero: another mouth moves the jaw's edge at the border


def test_a_clip_that_was_not_dubbed_is_all_source(take: Take, scored) -> None:
    score = scored(take.source())
    assert score.source_correlation > 0.95
    assert abs(score.correlation) < 0.2
    assert score.mouth_psnr < 30
    assert score.seam == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("late", [-1, 2])
def test_late_lips_are_seen(take: Take, scored, late: int) -> None:
    frames = list(take.truth())
    shown = np.clip(np.arange(len(frames)) - late, 0, len(frames) - 1)
    assert scored(frames[frame] for frame in shown).lag == late


def test_a_seam_is_seen(take: Take, crops: list[FaceCrops], scored) -> None:
    affines = np.concatenate([segment.affines for segment in crops])
    region = cv2.resize((template(SIDE).keep < 0.5).astype(np.float32), template(SIDE).size, interpolation=cv2.INTER_NEAREST)

    def tinted() -> Iterable[np.ndarray]:
        for frame, affine in zip(take.source(), affines, strict=True):
            box = cv2.warpAffine(region, affine, (SIZE, SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            yield np.clip(frame + 8 * box[..., None], 0, 255).astype(np.uint8)

    assert scored(tinted()).seam > 1.5


def test_a_mouth_that_never_opens_is_not_in_time(take: Take, scored) -> None:
    score = scored(np.full((SIZE, SIZE, 3), 180, np.uint8) for _ in range(len(take.wanted)))
    assert (score.correlation, score.lag) == (0, None)


def test_another_length_is_refused(take: Take, scored) -> None:
    with pytest.raises(ValueError, match="58 frames, the truth 60"):
        scored(list(take.source())[:-2])


def test_a_take_changes_the_mouth_alone(take: Take) -> None:
    assert len(take.wanted) == len(take.filmed) == 60
    same = {
        field.name
        for field in dc.fields(take.filmed)
        if np.array_equal(*(getattr(t, field.name) for t in (take.filmed, take.wanted)))
    }
    assert same == {"lids", "pose"}
    assert abs(np.corrcoef(take.filmed.aperture, take.wanted.aperture)[0, 1]) < 0.1


def test_what_is_written_is_what_was_rendered(take: Take, pair: tuple[Path, Path]) -> None:
    read, rendered = list(read_clip(pair[0])), list(take.source())
    assert len(read) == len(rendered)
    assert np.abs(read[20].astype(float) - rendered[20]).mean() < 4
