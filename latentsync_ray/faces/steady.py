"""Points that a detector gave frame by frame, made steady: gaps closed, noise taken out, without lag.

The whole track is known, so the filter looks both ways. Where a head hardly moves it is strong, where it turns quickly it is
weak: a crop that shimmers is seen, and so is one that comes late.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from latentsync_ray.faces.align import box_around
from latentsync_ray.faces.optical import BRIDGED
from latentsync_ray.faces.tracks import Track

__all__ = ["bridged", "steady"]

_CALM, _QUICK = 3.0, 1.0
"""Standard deviations of the filter in frames: on a still head in noise, 3 left 0.02 px of shimmer, 1 left 0.14, none 0.7."""
_MOVES = 0.01, 0.03
"""Where both differ by less than the first (in brow distances) the calm one holds, by more than the second the quick one. Noise
makes them differ by 0.005."""


def bridged(track: Track) -> Track:
    """The track with the places in short gaps interpolated, ``presence`` 0 there."""
    gaps = np.diff(track.rows)
    if not ((gaps > 1) & (gaps <= BRIDGED + 1)).any():
        return track
    rows = np.concatenate(
        [np.arange(row, row + gap) if gap <= BRIDGED + 1 else [row] for row, gap in zip(track.rows[:-1], gaps, strict=True)]
        + [track.rows[-1:]]
    ).astype(np.int32)
    before = np.searchsorted(track.rows, rows, side="right") - 1
    filled = track.take(before)
    missing = track.rows[before] != rows
    filled.rows = rows
    flat = track.landmarks.reshape(len(track), 6)
    filled.landmarks = np.stack([np.interp(rows, track.rows, each) for each in flat.T], 1).reshape(-1, 3, 2).astype(np.float32)
    filled.presence[missing] = 0
    filled.box[missing] = [box_around(points) for points in filled.landmarks[missing]]
    return filled


def steady(track: Track) -> Track:
    """The track with smoothed landmarks. Runs without a gap are smoothed each by itself."""
    landmarks = track.landmarks.astype(np.float64)
    for run in np.split(np.arange(len(track)), np.flatnonzero(np.diff(track.rows) > 1) + 1):
        landmarks[run] = _smoothed(landmarks[run])
    smooth = track.take(np.arange(len(track)))
    smooth.landmarks = landmarks.astype(np.float32)
    return smooth


def _smoothed(points: np.ndarray) -> np.ndarray:
    """(n, 3, 2) points of consecutive frames."""
    if len(points) < 3:
        return points
    calm, quick = (gaussian_filter1d(points, width, axis=0, mode="nearest", truncate=3.0) for width in (_CALM, _QUICK))
    brows = np.linalg.norm(points[:, 1] - points[:, 0], axis=1)
    apart = np.linalg.norm(calm - quick, axis=2).max(axis=1) / brows
    share = np.clip((apart - _MOVES[0]) / (_MOVES[1] - _MOVES[0]), 0, 1)
    share = gaussian_filter1d(share, _CALM, mode="nearest")[:, None, None]  # to go from one to the other is a movement too
    return (1 - share) * calm + share * quick
