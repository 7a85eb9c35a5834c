"""Log-mel spectrogram of 16 kHz speech, 30 s window by 30 s window, in memory that does not grow with the recording.

What models hear through Whisper, and what lips are measured against. Knows Whisper's spectrogram as LatentSync uses it: 25 ms
Hann windows every 10 ms, 80 Slaney mel bands, one loudness reference (``peak``) for the whole recording, and windows filled up
with 0.0. numpy only, so that decoding workers need no torch.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

__all__ = ["SAMPLE_RATE", "STEPS_PER_WINDOW", "audio_step_count", "log_mel_peak", "mel_bands", "mel_columns", "mel_window"]

SAMPLE_RATE = 16_000
STEPS_PER_WINDOW = 1500
"""Whisper steps (50 per second) in one 30 s window."""

_FFT = 400
_HOP = 160
_BANDS = 80
_WINDOW_FRAMES = 2 * STEPS_PER_WINDOW
_STEP_SAMPLES = 2 * _HOP
_FLOOR = 1e-10
_RANGE = 8.0
"""Everything more than 80 dB below the peak counts as silence."""


def audio_step_count(sample_count: int) -> int:
    """Whisper steps of a recording of ``sample_count`` samples; at least 1, as shorter audio is followed by silence."""
    return max(sample_count // _STEP_SAMPLES, 1)


def log_mel_peak(samples: NDArray[np.int16]) -> float:
    """Largest log10 mel power in a whole recording (n,), the reference that ``mel_window`` needs; -10 for digital silence."""
    samples = _at_least_one_step(samples)
    frames = len(samples) // _HOP
    starts = range(0, frames, _WINDOW_FRAMES)
    return max(float(_log_mel(samples, start, min(start + _WINDOW_FRAMES, frames)).max()) for start in starts)


def mel_window(samples: NDArray[np.int16], window: int, peak: float) -> NDArray[np.float32]:
    """Normalised log-mel (80, 3000) of the recording's 30 s window number ``window``.

    Past the end it is 0.0, as the model was trained, and not the value of silence. Raises ValueError past the last window.
    """
    samples = _at_least_one_step(samples)
    first = window * _WINDOW_FRAMES
    last = min(first + _WINDOW_FRAMES, len(samples) // _HOP)
    if window < 0 or last <= first:
        raise ValueError(f"no window {window} in {len(samples)} samples")
    padded = np.zeros((_BANDS, _WINDOW_FRAMES), np.float32)
    padded[:, : last - first] = _normalised(samples, first, last, peak)
    return padded


def mel_columns(samples: NDArray[np.int16], first: int, last: int, peak: float) -> tuple[NDArray[np.float32], int]:
    """Normalised log-mel (80, C) of the columns ``first`` to ``last`` that the recording has, and the number of the first."""
    samples = _at_least_one_step(samples)
    first, last = max(0, first), min(last, len(samples) // _HOP)
    if last <= first:
        return np.zeros((_BANDS, 0), np.float32), first
    return _normalised(samples, first, last, peak), first


def _normalised(samples: NDArray[np.int16], first: int, last: int, peak: float) -> NDArray[np.float32]:
    return ((np.maximum(_log_mel(samples, first, last), peak - _RANGE) + 4.0) / 4.0).astype(np.float32)


def _at_least_one_step(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    return samples if len(samples) >= _STEP_SAMPLES else np.pad(samples, (0, _STEP_SAMPLES - len(samples)))


def _log_mel(samples: NDArray[np.int16], first: int, last: int) -> NDArray[np.float64]:
    """log10 mel power (80, last - first) of spectrogram frames ``first`` to ``last``; frame t is centred on sample 160 t."""
    around = np.arange(first * _HOP - _FFT // 2, (last - 1) * _HOP + _FFT // 2)
    around = np.abs(around)  # reflect at the start ...
    around = np.minimum(around, 2 * (len(samples) - 1) - around)  # ... and at the end
    wave = np.asarray(samples[around], np.float64) / 32768.0
    frames = np.lib.stride_tricks.sliding_window_view(wave, _FFT)[::_HOP]
    angles = np.arange(_FFT, dtype=np.float32) * np.float32(2.0 * np.pi / _FFT)  # in float32, as in torch.hann_window:
    hann = 0.5 - 0.5 * np.cos(angles, dtype=np.float64)  # the model heard its rounding in training
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    return np.log10(np.maximum(mel_bands() @ power.T, _FLOOR))


@functools.cache
def mel_bands() -> NDArray[np.float64]:
    """Triangular filters (80, 201) of unit area, 0 to 8 kHz on Slaney's mel scale (M. Slaney, Auditory Toolbox, 1998)."""
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2, _FFT // 2 + 1)
    corners = _slaney_hertz(np.linspace(0.0, _slaney_mel(SAMPLE_RATE / 2), _BANDS + 2))
    widths = np.diff(corners)
    slopes = corners[:, None] - frequencies[None, :]
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return triangles * (2.0 / (corners[2:] - corners[:-2]))[:, None]


# Slaney's scale: 200/3 Hz per mel below 1 kHz (mel 15), above it 27 mels for every factor of 6.4.
def _slaney_mel(hertz: float) -> float:
    return 15.0 + 27.0 * np.log(hertz / 1000.0) / np.log(6.4)


def _slaney_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))
