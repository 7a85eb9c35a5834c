"""What a mouth does while this speech is heard: loudness opens it, bright sounds stretch it.

Knows samples and frames per second; knows nothing about pictures.
"""

from __future__ import annotations

import numpy as np

__all__ = ["mouth_curves", "mouth_of", "sound_curves", "voice_weight"]

_WINDOW = 0.080
"""Seconds of sound that a video frame looks at, around its middle: several pitch periods, less than a syllable."""
_VOICE = ((100.0, 300.0), (3000.0, 4000.0))
"""Hz, between which the weight of a sound rises and falls: vowels carry their power in between, without hum and hiss. A sharp
edge would lie on some voice's pitch, and a mouth would open and close with the melody.
"""
_RANGE = 28.0
"""dB from a closed mouth to an open one, below the clip's own loud level (95th percentile)."""
_PARTED = 0.2
"""Aperture from which on lips may be fully stretched or rounded."""


def mouth_curves(
    samples: np.ndarray, rate: int, *, fps: float = 25, frames: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Aperture (0 to 1) and width (-1 to 1) of the mouth for each video frame: two float32 arrays of length ``frames``.

    ``samples`` is mono sound, float, at ``rate`` Hz. ``frames`` defaults to what the sound fills; after its end it is silent.
    """
    return mouth_of(*sound_curves(samples, rate, fps=fps, frames=frames))


def sound_curves(
    samples: np.ndarray, rate: int, *, fps: float = 25, frames: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What the mouth depends on: level (dB) and centroid (Hz) of the voice around each video frame, float64."""
    count = int(np.ceil(len(samples) / rate * fps)) if frames is None else frames
    if not count:
        return np.zeros(0), np.zeros(0)
    size = int(_WINDOW * rate)
    starts = ((np.arange(count) + 0.5) / fps * rate).astype(int)  # the sound is padded by half a window in front
    needed = int(starts[-1]) + size
    padded = np.pad(np.asarray(samples, np.float32), (size // 2, max(0, needed - size // 2 - len(samples))))
    windows = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    hertz = np.fft.rfftfreq(size, 1 / rate)
    weight = voice_weight(hertz)
    power = np.abs(np.fft.rfft(windows, axis=1)) ** 2
    total = power @ weight
    return 10 * np.log10(total / weight.sum() + 1e-12), power @ (weight * hertz) / (total + 1e-12)


def voice_weight(hertz: np.ndarray) -> np.ndarray:
    """How much of the power at each frequency (N,) is the voice's, 0 to 1: vowels wholly, with soft edges around them."""
    (low, rising), (falling, high) = np.log(_VOICE)
    octave = np.log(np.maximum(hertz, 1))
    shares = np.clip([(octave - low) / (rising - low), (high - octave) / (high - falling)], 0, 1)
    return np.prod(np.sin(shares * np.pi / 2) ** 2, axis=0)


def mouth_of(level: np.ndarray, centroid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Aperture and width, as ``mouth_curves`` returns them, of what ``sound_curves`` returns."""
    if not len(level):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    loud = np.percentile(level, 95)
    aperture = np.clip((level - loud) / _RANGE + 1, 0, 1) ** 1.3
    if loud < -60:  # nothing but silence, whose own percentile must not open the mouth
        aperture[:] = 0
    width = np.clip((centroid - 900) / 900, -1, 1) * np.clip(aperture / _PARTED, 0, 1)  # 900 Hz lies between /u/ and /i/
    return _smooth(aperture), _smooth(width)


def _smooth(curve: np.ndarray) -> np.ndarray:
    """Lips are slower than sound: five frames, symmetric, so that nothing is delayed."""
    return np.convolve(np.pad(curve, 2, mode="edge"), [0.1, 0.2, 0.4, 0.2, 0.1], "valid").astype(np.float32)
