"""Do the lips move with the sound? A measure for any footage, without a ground truth and without another network.

While somebody speaks, the picture of the mouth changes when the spectrum of the sound does. How much each changes from frame to
frame is noted while a clip is made; how well the two agree, and at which offset, ends up in the clip's record. Knows faces as
aligned crops and speech as log-mel; knows nothing about files or the model.
"""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np

from latentsync_ray.template import Shares

__all__ = ["best_lag", "loudness", "mouth_motion", "sound_columns", "speech_change", "sync_score"]

_GRAIN = (34, 20)
"""The mouth is looked at in that many columns and rows: coarse enough not to see the noise of the film."""
_SAMPLE_RATE = 16_000
_LEAST_RANGE = 12.0
"""dB between quiet and loud, of a sound that has both."""
_MEL_RATE = 100
"""Columns of log-mel per second."""
_SYLLABLE = 0.2
"""Seconds over which both are averaged: lips do not follow every change of the sound."""
_REACH = 0.5
"""Seconds of offset to either side that are tried."""
_SHORTEST = 2.0
"""Seconds of visible face under which nothing can be said."""


def loudness(samples: np.ndarray, begins: np.ndarray, length: float) -> np.ndarray:
    """How loud a sound is during each frame, float32 (n,): 0 for its quiet parts, 1 for its loud ones.

    ``samples`` int16, 16 kHz; frames begin at ``begins`` (n,) seconds and last ``length`` seconds.
    """
    first = np.clip((begins * _SAMPLE_RATE).astype(np.int64), 0, len(samples))
    last = np.clip(first + max(1, int(length * _SAMPLE_RATE)), 0, len(samples))
    power = np.array(
        [np.square(samples[a:b], dtype=np.float64).mean() if b > a else 0.0 for a, b in zip(first, last, strict=True)]
    )
    level = 10 * np.log10(power + 1)
    quiet, loud = np.percentile(level, 10), np.percentile(level, 95)
    return np.clip((level - quiet) / max(loud - quiet, _LEAST_RANGE), 0, 1).astype(np.float32)


def mouth_motion(faces: np.ndarray, places: np.ndarray, mouth: Shares) -> np.ndarray:
    """How much each mouth differs from that of the frame before, in grey levels: float32 (F,).

    ``faces`` are aligned crops (P, R, R, 3) uint8, ``places`` (F,) says which of them each frame shows, -1 for none, and
    ``mouth`` where mouth and chin are in them. NaN where the frame or the one before it shows no face, so also for the first.
    """
    motion = np.full(len(places), np.nan, np.float32)
    if not len(faces):
        return motion
    left, top, right, bottom = (round(edge * faces.shape[1]) for edge in mouth)
    before = None
    for frame, place in enumerate(places.tolist()):
        seen = None
        if place >= 0:
            seen = cv2.resize(faces[place, top:bottom, left:right], _GRAIN, interpolation=cv2.INTER_AREA).mean(axis=2)
        if seen is not None and before is not None:
            motion[frame] = np.abs(seen - before).mean()
        before = seen
    return motion


def sound_columns(start: int, stop: int, fps: Fraction) -> tuple[int, int]:
    """The columns of log-mel, 100 per second, that ``speech_change`` wants: the first, and the one after the last."""
    edges = _edges(start, stop, fps)
    return int(edges[0]), max(int(edges[-1]), int(edges[-2]) + 1)


def _edges(start: int, stop: int, fps: Fraction) -> np.ndarray:
    """Where the frames from the one before ``start`` begin, and where the last one ends, in columns."""
    return np.arange(start - 1, stop + 1) * _MEL_RATE * fps.denominator // fps.numerator


def speech_change(mel: np.ndarray, first_column: int, start: int, stop: int, fps: Fraction) -> np.ndarray:
    """How much the spectrum during each of the output frames ``start`` to ``stop`` differs from the frame before: float32 (F,).

    ``mel`` (bands, columns) is normalised log-mel, 100 columns per second, that begins at the recording's ``first_column``. NaN
    where it does not hold both frames.
    """
    edges = _edges(start, stop, fps) - first_column
    begins, ends = edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)  # above 100 frames per second they share a column
    inside = (begins >= 0) & (ends <= mel.shape[1])
    sums = np.concatenate([np.zeros((len(mel), 1)), np.cumsum(mel, axis=1, dtype=np.float64)], axis=1)
    within = [np.clip(each, 0, mel.shape[1]) for each in (begins, ends)]
    spectra = (sums[:, within[1]] - sums[:, within[0]]) / (ends - begins)
    change = np.abs(np.diff(spectra, axis=1)).mean(axis=0)
    return np.where(inside[1:] & inside[:-1], change, np.nan).astype(np.float32)


def sync_score(motion: np.ndarray, change: np.ndarray, fps: Fraction) -> tuple[float | None, float | None]:
    """Correlation of mouth motion with the change of the sound at the best offset, and that offset in ms.

    Both (T,), NaN where unknown. The offset is positive when the lips are late, and at most 500. (None, None) when less than
    two seconds of face are known or nothing changes. Chance finds some offset, too: in one case of twenty, lips and sound that
    do not belong together read 0.66 over 4 s, 0.47 over 8 s and 0.25 over 25 s.
    """
    if not len(motion):
        return None, None
    width = max(1, round(_SYLLABLE * fps) // 2 * 2 + 1)
    correlation, lag = best_lag(
        _smooth(change, width), _smooth(motion, width), reach=round(_REACH * fps), fewest=_SHORTEST * fps
    )
    return (None, None) if correlation is None or lag is None else (correlation, float(1000 * lag / fps))


def best_lag(leader: np.ndarray, follower: np.ndarray, *, reach: int, fewest: float = 3) -> tuple[float | None, int | None]:
    """The highest correlation of two curves (T,) over offsets of up to ``reach`` frames, and its offset.

    The offset is positive when ``follower`` comes later. NaNs are left out; (None, None) when fewer than ``fewest`` frames are
    known in both, or one of them never changes.
    """
    best: tuple[float | None, int | None] = (None, None)
    reach = min(reach, len(leader) - 1)
    for lag in sorted(range(-reach, reach + 1), key=abs):  # of equals, the smallest
        ahead, behind = leader[max(0, -lag) : len(leader) - max(0, lag)], follower[max(0, lag) : len(follower) + min(0, lag)]
        known = np.isfinite(ahead) & np.isfinite(behind)
        ahead, behind = ahead[known].astype(np.float64), behind[known].astype(np.float64)
        if len(ahead) < fewest or ahead.std() == 0 or behind.std() == 0:
            continue
        correlation = float(np.corrcoef(ahead, behind)[0, 1])
        if best[0] is None or correlation > best[0]:
            best = correlation, lag
    return best


def _smooth(curve: np.ndarray, width: int) -> np.ndarray:
    """Mean of the known values within ``width`` frames; unknown stays unknown."""
    known = np.isfinite(curve)
    window = np.ones(width)
    total = np.convolve(np.where(known, curve, 0), window)[width // 2 : width // 2 + len(curve)]
    count = np.convolve(known, window)[width // 2 : width // 2 + len(curve)]
    return np.where(known, total / np.maximum(count, 1), np.nan)
