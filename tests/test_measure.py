"""The measure of lips against sound: right on the portrait, whose truth is known, and silent where nothing can be said."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from latentsync_ray.measure import best_lag, mouth_motion, speech_change, sync_score
from latentsync_ray.models.latentsync.template import template

FPS = Fraction(25)
MOUTH = template(64).mouth


@pytest.fixture(scope="module")
def curve() -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 1, 200).astype(np.float32)


@pytest.mark.parametrize("late", [-6, 0, 4])
def test_offset_is_found_and_signed(curve, late):
    correlation, lag = sync_score(np.roll(curve, late), curve, FPS)
    assert lag == 40 * late
    assert correlation is not None
    assert correlation > 0.9


def test_offset_in_ms_does_not_depend_on_the_frame_rate(curve):
    fps = Fraction(30000, 1001)
    assert sync_score(np.roll(curve, 3), curve, fps)[1] == pytest.approx(100.1)


def test_unrelated_curves_do_not_correlate(curve):
    correlation, _ = sync_score(np.random.default_rng(4).uniform(0, 1, 200).astype(np.float32), curve, FPS)
    assert correlation is not None
    assert correlation < 0.45  # the best of 25 offsets of smoothed noise


@pytest.mark.parametrize("what", ["short", "still", "silent", "unseen", "empty"])
def test_nothing_is_said_where_nothing_is_known(curve, what):
    motion, change = curve.copy(), curve.copy()
    if what == "short":
        motion, change = motion[:40], change[:40]
    elif what == "still":
        motion[:] = 0.2
    elif what == "silent":
        change[:] = 0
    elif what == "unseen":
        motion[40:] = np.nan
    else:
        motion = change = np.zeros(0, np.float32)
    assert sync_score(motion, change, FPS) == (None, None)


@pytest.mark.parametrize("fps", [25, 60, 120])
@pytest.mark.parametrize("frames", [1, 2, 7, 12, 30])
def test_short_clips_are_no_trouble(curve, frames, fps):
    assert sync_score(curve[:frames], curve[:frames], Fraction(fps)) == (None, None)


def test_gaps_are_left_out(curve):
    motion = np.roll(curve, 2)
    motion[50:80] = np.nan
    assert sync_score(motion, curve, FPS)[1] == 80


def test_of_equal_offsets_the_smallest():
    wave = np.tile([0.0, 1.0], 50)
    assert best_lag(wave, wave, reach=6) == (pytest.approx(1.0), 0)


def test_mouth_motion_sees_the_mouth_only():
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    eyes, mouth = still.copy(), still.copy()
    eyes[5:30] = 255 - eyes[5:30]
    mouth[40:52] = cv2.GaussianBlur(mouth[40:52], (0, 0), 3) // 2
    motion = mouth_motion(np.stack([still, eyes, still, mouth, mouth]), np.arange(5), MOUTH)
    assert np.isnan(motion[0])
    assert motion[1] == motion[2] == motion[4] == 0
    assert motion[3] > 5
    assert motion.dtype == np.float32


def test_mouth_motion_is_unknown_around_gaps():
    faces = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    motion = mouth_motion(faces, np.array([0, 1, -1, 3, 4]), MOUTH)
    assert np.isfinite(motion).tolist() == [False, True, False, False, True]
    assert np.isnan(mouth_motion(faces[:0], np.full(3, -1), MOUTH)).all()


def test_speech_change_is_where_the_sound_changes():
    mel = np.zeros((80, 400), np.float32)
    mel[:, 200:] = 1  # at 2 s, the beginning of frame 50
    change = speech_change(mel, 0, 0, 100, FPS)
    assert np.isnan(change[0])
    assert np.flatnonzero(change > 0).tolist() == [50]
    assert change[50] == 1


@pytest.mark.parametrize("fps", [24, 100, 120])
def test_steady_sound_does_not_change_at_any_frame_rate(fps):
    change = speech_change(np.ones((80, 300), np.float32), 0, 0, 3 * fps - 2, Fraction(fps))
    assert (change[2:] == 0).all()


def test_speech_change_does_not_depend_on_how_the_sound_was_cut():
    mel = np.random.default_rng(1).normal(size=(80, 6000)).astype(np.float32)
    whole = speech_change(mel, 0, 0, 1500, FPS)
    part = speech_change(mel[:, 3000:], 3000, 750, 1000, FPS)
    assert np.isnan(part[0])  # the frame before is in the other window
    assert np.allclose(part[1:], whole[751:1000], atol=1e-5)
    assert np.isnan(speech_change(mel[:, :100], 0, 20, 30, FPS)[5:]).all(), "past the end of what is known"
