"""In which frames of a track a new mouth may be drawn: where there is one to be seen.

What is before a mouth is found by its colours: the mesh follows lips and chin through speech and turns of the head, so the same
place of the skin keeps its colour, but for the light, until something else is there.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from latentsync_ray.faces.tracks import Track
from latentsync_ray.reasons import Reason

__all__ = ["covered", "obstacles", "usable"]

_YAW, _PITCH = 60.0, 50.0
"""Degrees beyond which models draw no mouth that fits."""
_UNLIKE = 3.0
"""Robust standard deviations from its usual colour that make a place unlike itself; 3 marked 1 % of the places on two clips."""
_GRAIN = np.array([0.10, 0.03, 0.03])
"""What colours vary anyway (log lightness, log red over green, log blue over green), on top of what they do in the track."""
_COVERED, _EDGE = 0.10, 0.06
"""Share of unlike places that shows something before the mouth, and from which on it counts as coming or going."""
_PAUSE = 4
"""Frames between two covered stretches that are covered too."""
_MARGIN = 1
"""Frames before and after that count as covered: what moves is blurred at its edge."""
_SHORTEST = 12
"""Frames of a track under which its usual colours are not known."""
_WINDOW = 4000
"""Frames over which colours are compared: in hours, light and make-up change."""


def covered(track: Track) -> np.ndarray:
    """bool (n,): something is before the mouth. False where the detector tells no colours.

    Judged by what is usual in the track: what is there most of the time, such as a microphone, does not count.
    """
    hidden = np.zeros(len(track), np.bool_)
    if not track.lower:
        return hidden
    share = np.zeros(len(track))
    for first in range(0, len(track), _WINDOW // 2):  # each half is judged by itself and a quarter of the window on either side
        begin = max(0, min(first - _WINDOW // 4, len(track) - _WINDOW))
        around = slice(begin, begin + _WINDOW)
        unlike = _unlike(track.texture[around], track.lower)
        share[first : first + _WINDOW // 2] = unlike[first - begin :][: _WINDOW // 2]
    return _hidden(share) if len(track) >= _SHORTEST else hidden


def _unlike(texture: np.ndarray, lower: int) -> np.ndarray:
    """Share of places of the lower face that have not their usual colour: float (n,)."""
    logs = np.log(texture.astype(np.float32) + 8)
    colours = np.stack([logs.mean(-1), logs[..., 0] - logs[..., 1], logs[..., 2] - logs[..., 1]], axis=-1)
    colours = colours[:, :lower] - np.median(colours[:, lower:], axis=1)[:, None]  # less what the light does to all
    usual = np.median(colours, axis=0)
    spread = 1.48 * np.median(np.abs(colours - usual), axis=0) + _GRAIN
    return (np.abs(colours - usual) / spread > _UNLIKE).any(-1).mean(1)


def _hidden(share: np.ndarray) -> np.ndarray:
    sure, edge = share > _COVERED, share > _EDGE
    grown = sure.copy()
    for step in (1, -1):  # along what is unlike enough, away from where it is sure
        order = range(1, len(share)) if step == 1 else range(len(share) - 2, -1, -1)
        for frame in order:
            grown[frame] |= edge[frame] and grown[frame - step]
    frames = np.flatnonzero(grown)
    for before, after in pairwise(frames):
        if after - before <= _PAUSE + 1:
            grown[before:after] = True
    reach = np.ones(2 * _MARGIN + 1)
    return np.convolve(grown, reach, mode="same") > 0 if grown.any() else grown


def usable(track: Track, size: tuple[int, int]) -> np.ndarray:
    """bool (n,): a mouth can be drawn: not covered, not turned away, and with its middle in the frame of ``size`` (w, h)."""
    return obstacles(track, size) == Reason.SHOWN


def obstacles(track: Track, size: tuple[int, int]) -> np.ndarray:
    """What keeps a mouth from being drawn in a frame of ``size`` (w, h), as a ``Reason``: uint8 (n,)."""
    yaw, pitch = np.abs(track.turn[:, 0]), np.abs(track.turn[:, 1])
    away = (yaw > _YAW) | (pitch > _PITCH)  # unknown is not away
    left, right, nose = track.landmarks.astype(np.float64).swapaxes(0, 1)
    mouth = nose + 0.75 * (nose - (left + right) / 2)
    inside = ((mouth >= 0) & (mouth <= np.array(size) - 1)).all(1)
    reasons = np.where(inside, Reason.SHOWN, Reason.OUT_OF_PICTURE)
    return np.where(track.covered, Reason.COVERED, np.where(away, Reason.TURNED, reasons)).astype(np.uint8)
