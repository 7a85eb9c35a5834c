"""How loud a speech is, frame by frame."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from latentsync_ray.quality.sound import speech_level

SPEECH = np.concatenate(
    [
        np.rint(16384 * np.sin(np.arange(16_000) * 0.3)).astype(np.int16),
        np.zeros(8000, np.int16),
        np.random.default_rng(0).integers(-300, 300, 8000).astype(np.int16),
    ]
)


def test_levels() -> None:
    level = speech_level(SPEECH, 0, 52, Fraction(25))
    assert level[3] == pytest.approx(-9.03, abs=0.05), "a sine of half the range"
    assert level[30] == pytest.approx(-120, abs=0.1)
    assert level[45] == pytest.approx(20 * np.log10(300 / np.sqrt(3) / 32768), abs=0.3)
    assert np.isnan(level[50:]).all(), "beyond the end"


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(12)])
def test_a_frame_reads_the_same_in_any_segment(fps: Fraction) -> None:
    whole = speech_level(SPEECH, 0, 22, fps)
    pieces = [speech_level(SPEECH, start, stop, fps) for start, stop in ((0, 7), (7, 16), (16, 22))]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
