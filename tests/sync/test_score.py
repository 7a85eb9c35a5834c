"""The verdict on lips and sound: sure of the portrait with its own speech, right about offsets, silent where it cannot know."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from latentsync_ray import assets
from latentsync_ray.faces.align import affine, crop_face
from latentsync_ray.media.speech import decode_speech, read_speech
from latentsync_ray.models.latentsync.template import template
from latentsync_ray.models.mel import log_mel_peak, mel_columns
from latentsync_ray.nano.portrait import Performance, posed_points, render_clip
from latentsync_ray.sync import Sync, read_lips, sync_of
from latentsync_ray.sync.score import prepared_lips, resampled

FPS = Fraction(25)
SEEN = np.array([(208.2, 175.8), (311.7, 181.8), (254.2, 250.4)])
"""Brows and nose of the portrait, px of 512."""
SIDE = 96


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """int16, 16 kHz: some 6 s that the portrait did not say in any training."""
    file = tmp_path_factory.mktemp("speech") / "speech.raw"
    decode_speech(assets.demo_audio(), file, max_seconds=60)
    return np.array(read_speech(file))


@pytest.fixture(scope="module")
def mel(speech: np.ndarray) -> np.ndarray:
    return mel_columns(speech, 0, len(speech) // 160, log_mel_peak(speech))[0]


@pytest.fixture(scope="module")
def lips(speech: np.ndarray) -> np.ndarray:
    """Of the portrait that says it."""
    performance = Performance.of_speech(speech / np.float32(32768), 16_000, fps=25, seed=5)
    faces = []
    for picture, pose in zip(render_clip(performance, size=256), performance.pose, strict=True):
        faces.append(crop_face(picture, affine((posed_points(SEEN, pose) + 0.5) / 2 - 0.5, template(SIDE)), template(SIDE)))
    return read_lips(np.stack(faces), np.arange(len(faces)), template(SIDE).mouth)


def judge(lips: np.ndarray, mel: np.ndarray, fps: Fraction = FPS) -> Sync | None:
    return sync_of(lips, fps, lambda first, last: mel[:, first:last])


def test_lips_that_say_it_are_in_sync(lips: np.ndarray, mel: np.ndarray) -> None:
    found = judge(lips, mel)
    assert found is not None
    assert found.score > 0.9
    assert abs(found.offset_ms) <= 20


@pytest.mark.parametrize("late", [-8, -3, 3, 5, 10])
def test_an_offset_is_found_signed_and_bad(lips: np.ndarray, mel: np.ndarray, late: int) -> None:
    shifted = lips[10 - late : len(lips) - 10 - late]
    found = judge(shifted, mel[:, 40 : 40 + 4 * len(shifted)])
    assert found is not None
    assert found.offset_ms == pytest.approx(40 * late, abs=25)
    assert found.score < 0.2


def test_lips_that_say_something_else_are_not(lips: np.ndarray, mel: np.ndarray) -> None:
    found = judge(lips[::-1].copy(), mel)
    assert found is not None
    assert found.score < 0.2


def test_frozen_lips_are_not(lips: np.ndarray, mel: np.ndarray) -> None:
    found = judge(np.repeat(lips[20:21], len(lips), axis=0), mel)
    assert found is not None
    assert found.score < 0.3


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(30_000, 1001), Fraction(50), Fraction(60)])
def test_every_frame_rate(lips: np.ndarray, mel: np.ndarray, fps: Fraction) -> None:
    count = int(len(lips) / 25 * fps)
    at = (np.arange(count) + 0.5) / float(fps) * 25 - 0.5
    found = judge(np.stack([np.interp(at, np.arange(len(lips)), curve) for curve in lips.T], 1).astype(np.float32), mel, fps)
    assert found is not None
    assert found.score > 0.8
    assert abs(found.offset_ms) <= 20


def test_nothing_is_said_of_what_cannot_be_known(lips: np.ndarray, mel: np.ndarray) -> None:
    assert judge(lips[:35], mel) is None, "too short"
    hidden = np.where(np.arange(len(lips))[:, None] % 6 < 5, np.nan, lips).astype(np.float32)
    assert judge(hidden, mel) is None, "too little is seen"
    assert judge(lips, np.full_like(mel, -1.5)) is None, "silence"
    assert judge(lips, mel[:, :0]) is None, "no sound"
    assert judge(lips[:0], mel) is None


def test_gaps_do_not_matter(lips: np.ndarray, mel: np.ndarray) -> None:
    holes = lips.copy()
    holes[30:50] = np.nan
    found = judge(holes, mel)
    assert found is not None
    assert found.score > 0.8


def test_unknown_stays_unknown_and_known_keeps_its_time() -> None:
    lips = np.arange(48, dtype=np.float32)[:, None].repeat(3, 1)
    lips[10] = np.nan
    seen = resampled(lips, Fraction(24))
    assert len(seen) == 50
    assert np.isnan(seen).any(axis=1).sum() in (1, 2)
    assert seen[40, 0] == pytest.approx(40.5 * 24 / 25 - 0.5, abs=1e-3)
    assert np.isfinite(prepared_lips(seen)).all()


def test_a_long_clip_is_judged_in_pieces(lips: np.ndarray, mel: np.ndarray) -> None:
    asked = []

    def between(first: int, last: int) -> np.ndarray:
        asked.append((first, last))
        return np.tile(mel[:, : 4 * len(lips)], 4)[:, first:last]

    found = sync_of(np.tile(lips, (4, 1)), FPS, between)
    assert found is not None
    assert found.score > 0.95
    assert max(last - first for first, last in asked) <= 1000
