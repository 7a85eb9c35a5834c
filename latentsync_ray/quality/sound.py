"""How loud a speech is."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

__all__ = ["speech_level"]

_SAMPLE_RATE = 16_000
_FULL_SCALE = 32768.0
_FLOOR = 1e-12
"""Power of digital silence: -120 dB."""


def speech_level(samples: np.ndarray, start: int, stop: int, fps: Fraction) -> np.ndarray:
    """dB of full scale during each of the output frames ``start`` to ``stop``: float32 (F,), NaN beyond the end.

    ``samples`` are the whole speech: int16 (n,), 16 kHz.
    """
    edges = np.minimum(np.arange(start, stop + 1) * _SAMPLE_RATE * fps.denominator // fps.numerator, len(samples))
    squares = np.square(samples[edges[0] : edges[-1]], dtype=np.int64)  # whole numbers: no sum depends on where it began
    total, count = np.concatenate([[0], np.cumsum(squares)])[edges - edges[0]], np.diff(edges)
    power = np.diff(total) / np.maximum(count, 1) / _FULL_SCALE**2
    return np.where(count > 0, 10 * np.log10(power + _FLOOR), np.nan).astype(np.float32)
