"""The same track as another throat would say it, in another room, into another microphone.

What the mouth does depends on the level and the centroid of the voice alone, and how these change with the spectrum can be
computed from the spectrum. So a track may sound different each time that it is heard, and what is wanted of it follows; a
network that hears a few hundred tracks as they are learns how loud those are.
"""

from __future__ import annotations

import dataclasses as dc
import functools

import numpy as np
from scipy.optimize import nnls

from latentsync_ray.models.mel import SAMPLE_RATE, mel_bands
from latentsync_ray.nano.portrait import voice_weight
from latentsync_ray.nano.training.speech import FPS, Track

__all__ = ["heard", "varied"]

_AS_IT_IS = 0.2
"""Share of tracks that only change their volume."""
_VOLUME, _COLOUR, _DISTANCE = 4.0, 6.0, 3.0
"""Standard deviations (dB): of the whole, of eight points along the mel bands, and of one point a second."""
_THROATS = (0.88, 1.13)
"""By how much the mel bands are pulled apart or together."""
_POINTS = 8
_DB = 40.0
"""Of one unit of Whisper's log-mel."""
_LOOKS = (0.1, 0.25, 0.3, 0.25, 0.1)
"""Shares of a frame's columns, which together hear about what ``sound_curves``' window does."""
_RANGE = 80.0
"""dB below the loudest that count as silence there."""


def varied(track: Track, draw: np.random.Generator) -> Track:
    """``track`` with another sound and the level and centroid that go with it. Silence stays as it is."""
    if not track.curves.any():
        return track
    mel = track.mel.astype(np.float32)
    count = int(np.flatnonzero(mel.any(axis=0))[-1]) + 1  # behind the recording everything is 0
    before = after = mel[:, :count]
    if draw.random() >= _AS_IT_IS:
        bands = np.arange(len(mel))
        if draw.random() < 0.5:
            after = _pulled(after, float(draw.uniform(*_THROATS)))
        colour = np.interp(bands, np.linspace(0, bands[-1], _POINTS), draw.normal(0, _COLOUR, _POINTS))
        after = after + (colour[:, None] / _DB).astype(np.float32)
        if draw.random() < 0.5:
            points = count // 100 + 2
            distance = np.interp(np.arange(count), np.linspace(0, count, points), draw.normal(0, _DISTANCE, points))
            after = after + (distance / _DB).astype(np.float32)
        after = np.maximum(after, after.max() - _RANGE / _DB)
    after = after + np.float32(draw.normal(0, _VOLUME) / _DB)
    frames = len(track.sound)
    changed = np.zeros_like(mel)
    changed[:, :count] = after
    sound = track.sound + heard(after, frames) - heard(before, frames)
    return dc.replace(track, mel=changed, sound=sound.astype(np.float32))


def heard(mel: np.ndarray, frames: int) -> np.ndarray:
    """Level (dB, but for a constant) and centroid (Hz) of the voice around each of ``frames`` video frames: (frames, 2).

    ``mel`` is Whisper's log-mel (80, T) at 100 columns a second. Changes of level agree with ``sound_curves``' within 0.5 dB.
    """
    power = _band_weights() @ 10 ** (mel.astype(np.float64) * (_DB / 10) - 4)
    middle = (np.arange(frames) * 2 + 1) * 50 // FPS
    reach = len(_LOOKS) // 2
    around = np.pad(power, ((0, 0), (reach, max(1, 1 + reach + middle[-1] - power.shape[1]))))
    columns = middle[:, None] + np.arange(len(_LOOKS))
    seen = around[:, columns] @ np.asarray(_LOOKS)
    total = np.maximum(seen[0], 1e-12)
    return np.stack([10 * np.log10(total), seen[1] / total], axis=1)


def _pulled(mel: np.ndarray, factor: float) -> np.ndarray:
    """``mel`` with its bands ``factor`` times as far from the lowest."""
    at = np.clip(np.arange(len(mel)) / factor, 0, len(mel) - 1)
    lower = at.astype(int)
    upper, share = np.minimum(lower + 1, len(mel) - 1), (at - lower)[:, None].astype(np.float32)
    return mel[lower] * (1 - share) + mel[upper] * share


@functools.cache
def _band_weights() -> np.ndarray:
    """What sums mel bands to the power of the voice's band, and to its power times Hz: (2, 80)."""
    bands = mel_bands()
    hertz = np.linspace(0, SAMPLE_RATE / 2, bands.shape[1])
    voice = voice_weight(hertz)
    return np.stack([nnls(bands.T, voice)[0], nnls(bands.T, voice * hertz)[0]])
