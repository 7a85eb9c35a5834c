"""Which moments of the speech each video frame looks at.

Whisper gives 50 steps per second, in 30 s windows. Knows only that arithmetic; numpy only.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from latentsync_ray.models.mel import STEPS_PER_WINDOW

__all__ = ["STEPS_PER_FRAME", "chunk_count", "step_indices", "touched_windows"]

_STEPS_PER_SECOND = 50
STEPS_PER_FRAME = 10
"""Each frame sees 0.2 s of speech: the step at its time, 4 before and 5 after (LatentSync, ``audio_feat_length: [2, 2]``)."""

_BEFORE = 4


def step_indices(start: int, stop: int, fps: Fraction, step_count: int) -> NDArray[np.int32]:
    """Whisper steps (F, 10) that output frames ``start`` to ``stop`` of a clip look at.

    Steps before the first and after the last of the recording's ``step_count`` repeat that one.
    """
    frames = np.arange(start, stop, dtype=np.int64)
    centres = frames * _STEPS_PER_SECOND * fps.denominator // fps.numerator
    around = centres[:, None] + np.arange(-_BEFORE, STEPS_PER_FRAME - _BEFORE)
    return np.clip(around, 0, step_count - 1).astype(np.int32)


def touched_windows(start: int, stop: int, fps: Fraction, step_count: int) -> range:
    """Numbers of the 30 s windows that hold the steps of output frames ``start`` to ``stop`` (at least one frame)."""
    ends = step_indices(start, start + 1, fps, step_count), step_indices(stop - 1, stop, fps, step_count)
    return range(int(ends[0].min()) // STEPS_PER_WINDOW, int(ends[1].max()) // STEPS_PER_WINDOW + 1)


def chunk_count(step_count: int, fps: Fraction) -> int:
    """Output frames that the official script makes of a recording: up to the first one centred past its end, plus one."""
    first_past = (step_count + 1) * fps / _STEPS_PER_SECOND
    return 1 + -(-first_past.numerator // first_past.denominator)
