"""The talking head: what goes into its mouth can be read back from its picture."""

from __future__ import annotations

import numpy as np
import pytest

from latentsync_ray.nano.portrait import Light, Performance, mouth_curves, read_aperture, render_clip
from latentsync_ray.nano.portrait.face import make_face, portrait

FPS, RATE = 25, 16000


@pytest.fixture(scope="module")
def curve() -> np.ndarray:
    """80 frames of random syllables."""
    knots = np.random.default_rng(7).uniform(-0.2, 1.1, 21)
    return np.clip(np.interp(np.arange(80), np.arange(0, 84, 4), knots), 0, 1).astype(np.float32)


def correlation(a: np.ndarray, b: np.ndarray, lag: int = 0) -> float:
    return float(np.corrcoef(a[: len(a) - lag], b[lag:])[0, 1])


@pytest.mark.parametrize("light", [Light(), Light.random(1), Light.random(2)], ids=["photograph", "light 1", "light 2"])
def test_aperture_reads_back_at_lag_zero(curve, light):
    performance = Performance.of_mouth(curve, np.sin(np.arange(80) / 5), seed=3)
    frames = list(render_clip(performance, size=256, light=light))
    fixed, following = read_aperture(frames), read_aperture(frames, pose=performance.pose)
    assert correlation(curve, fixed) > 0.95
    assert correlation(curve, following) > 0.95
    assert max(range(-3, 4), key=lambda lag: correlation(*((curve, fixed) if lag >= 0 else (fixed, curve)), abs(lag))) == 0
    assert abs(correlation(curve, fixed, FPS)) < 0.5, "a second later it must say nothing"


def test_following_the_head_helps_when_it_moves_much(curve):
    performance = Performance.of_mouth(curve, seed=3, motion=6)
    frames = list(render_clip(performance, size=256))
    assert correlation(curve, read_aperture(frames, pose=performance.pose)) > 0.95
    assert correlation(curve, read_aperture(frames)) < correlation(curve, read_aperture(frames, pose=performance.pose))


def test_size_does_not_matter_to_the_measure(curve):
    performance = Performance.of_mouth(curve[:10], seed=1)
    small, large = (read_aperture(render_clip(performance, size=size)) for size in (128, 512))
    assert np.abs(small - large).max() < 0.05


def test_opens_wider_with_aperture():
    shares = read_aperture(np.clip(make_face(a), 0, 255).astype(np.uint8) for a in np.linspace(0, 1, 11))
    assert shares[0] < 0.05
    assert shares[-1] > 0.25
    assert (np.diff(shares) > -0.005).all()


def test_at_rest_it_is_the_photograph():
    assert np.abs(make_face(0.35) - portrait()).mean() < 0.05
    still = Performance.of_mouth(np.full(3, 0.35), motion=0)
    assert np.abs(next(render_clip(still)).astype(float) - portrait()).mean() < 0.5


def test_only_the_eyes_blink():
    difference = np.abs(make_face(0.35, lids=1) - make_face(0.35)).max(axis=2)
    rows, columns = np.nonzero(difference > 1)
    assert difference.max() > 60, "the dark iris gives way to skin"
    assert rows.min() > 175
    assert rows.max() < 225
    assert columns.min() > 190
    assert columns.max() < 330


def test_same_seed_same_pixels(curve):
    def frames(seed: int) -> list[np.ndarray]:
        return list(render_clip(Performance.of_mouth(curve[:3], seed=seed), size=128, light=Light.random(seed)))

    assert all((a == b).all() for a, b in zip(frames(5), frames(5), strict=True))
    assert any((a != b).any() for a, b in zip(frames(5), frames(6), strict=True))
    assert frames(5)[0].shape == (128, 128, 3)
    assert frames(5)[0].dtype == np.uint8


def test_speech_opens_the_mouth_where_it_sounds():
    seconds = np.arange(2 * RATE) / RATE
    burst = (seconds > 0.8) & (seconds < 1.2)
    dull, bright = (0.3 * np.sin(2 * np.pi * hertz * seconds) * burst for hertz in (300, 2500))
    aperture, width = mouth_curves(dull, RATE)
    assert len(aperture) == len(width) == 50
    assert aperture[:15].max() == aperture[35:].max() == 0
    assert aperture[24:26].min() > 0.9
    assert abs((aperture * np.arange(50)).sum() / aperture.sum() - 24.5) < 0.5, "not late, not early"
    assert width[25] < -0.3
    assert mouth_curves(bright, RATE)[1][25] > 0.5


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.random.default_rng(0).normal(0, 1e-5, RATE)], ids=["silence", "hiss"])
def test_silence_keeps_it_shut(samples):
    aperture, width = mouth_curves(samples, RATE)
    assert not aperture.any()
    assert not width.any()


def test_wanted_number_of_frames():
    assert len(mouth_curves(np.zeros(RATE), RATE, frames=40)[0]) == 40
    assert len(mouth_curves(np.zeros(0), RATE)[0]) == 0
    assert len(mouth_curves(np.ones(100), RATE)[0]) == 1
    assert len(Performance.of_speech(np.zeros(RATE), RATE, fps=30)) == 30


def test_blinks_last_a_moment_and_come_again():
    lids = Performance.of_mouth(np.zeros(500), seed=2).lids
    assert 4 <= ((lids[1:] > 0.4) & (lids[:-1] <= 0.4)).sum() <= 11
    assert (lids > 0.4).mean() < 0.15


def test_performance_refuses_arrays_of_different_lengths(curve):
    with pytest.raises(ValueError, match=r"performance of 80 frames.*'width': \(3,\)"):
        Performance.of_mouth(curve, np.zeros(3))
