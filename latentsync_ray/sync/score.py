"""Do lips and sound belong together, and which of them is late? What the lips did is held against the speech, at each offset.

Knows what was read of the lips and log-mel; knows nothing about files and pictures. All is looked at 25 times a second, in
pieces of some seconds that do not depend on how the clip was cut for work.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from latentsync_ray.sync.networks import Floats, Weights, agreement, embed, shipped_weights

__all__ = ["REACH", "Sync", "evidence", "judged", "offset_sums", "prepared_lips", "prepared_sound", "resampled", "sync_of"]

_RATE = 25
"""Of lips, per second; log-mel has four columns for each."""
_COLUMNS = 4
REACH = 15
"""25ths of a second to either side that are tried."""
_NEAR, _FAR = 1, 3
"""Offsets of up to 1 count as in sync, from 3 on as out of sync."""
_PIECE = 250
"""Longest piece that is looked at in one go."""
_SHORTEST = 1.6
"""Seconds of visible lips under which nothing can be said."""
_STILL = 0.05
"""Standard deviation of log-mel under which a sound says nothing: 2 dB."""
_LEAST_MOTION = 0.02
"""Standard deviation of what is read under which lips count as still."""


@dataclass(frozen=True, slots=True)
class Sync:
    """What is told of a clip."""

    score: float
    """Probability that lips and sound belong together as they are, 0 to 1."""
    offset_ms: float
    """By how much the lips are late where both agree best, -600 to 600. Means nothing where nothing agrees."""


def sync_of(
    lips: Floats, fps: Fraction, mel_between: Callable[[int, int], Floats], *, weights: Weights | None = None
) -> Sync | None:
    """How well the lips of a clip follow its sound; None when too little is seen or nothing is heard.

    ``lips`` (F, 3) are what ``read_lips`` gives for its frames, and ``mel_between(first, last)`` gives its normalised log-mel
    (80, C) between two columns, 100 per second; fewer where the sound ends.
    """
    weights = shipped_weights() if weights is None else weights
    seen = resampled(lips, fps)
    total, known = np.zeros(2 * REACH + 1, np.float32), 0
    count = max(1, -(-len(seen) // _PIECE))
    edges = [len(seen) * number // count for number in range(count + 1)]
    for first, last in itertools.pairwise(edges):
        piece = seen[first:last]
        sound = mel_between(_COLUMNS * first, _COLUMNS * last)[:, : _COLUMNS * len(piece)]
        piece = piece[: sound.shape[1] // _COLUMNS]
        visible = int(np.isfinite(piece).all(1).sum())
        if len(piece) > REACH and visible and sound.std(axis=1).mean() >= _STILL:
            total += offset_sums(piece, sound[:, : _COLUMNS * len(piece)], weights)
            known += visible
    return judged(total, known, weights) if known >= _SHORTEST * _RATE else None


def resampled(lips: Floats, fps: Fraction) -> Floats:
    """What is read of each frame, as it would be at 25 frames per second: (F, 3) to (N, 3). Unknown stays unknown."""
    if fps == _RATE or not len(lips):
        return lips
    count = len(lips) * _RATE * fps.denominator // fps.numerator
    at = (np.arange(count) + 0.5) * float(fps / _RATE) - 0.5
    if fps > 1.5 * _RATE:  # the mean of the frames of each 25th
        edges = np.clip(np.round((np.arange(count + 1)) * float(fps / _RATE)).astype(int), 0, len(lips))
        return np.stack([lips[a:b].mean(0) for a, b in itertools.pairwise(edges)]) if count else lips[:0]
    before = np.clip(np.floor(at).astype(int), 0, len(lips) - 1)
    after, share = np.minimum(before + 1, len(lips) - 1), np.clip(at - before, 0, 1)[:, None].astype(np.float32)
    return np.where(share > 0, lips[before] * (1 - share) + lips[after] * share, lips[before]).astype(np.float32)


def prepared_lips(lips: Floats) -> Floats:
    """What the network watches: the three curves (N, 3) in their own scale, and their changes, (6, N). 0 where unknown."""
    known = np.asarray(np.isfinite(lips).all(axis=1))
    values = np.where(known[:, None], lips, 0)
    count = max(1, int(known.sum()))
    values = np.where(known[:, None], values - values.sum(0) / count, 0)
    values = values / (np.sqrt((values**2).sum(0) / count) + _LEAST_MOTION)
    change = np.zeros_like(values)
    change[1:] = np.diff(values, axis=0) * (known[1:] & known[:-1])[:, None]
    return np.concatenate([values, 2 * change], axis=1).T.astype(np.float32)


def prepared_sound(mel: Floats) -> Floats:
    """What the network hears: log-mel (80, C) in 40 bands, each without its mean."""
    bands = mel.reshape(40, 2, -1).mean(1)
    return (bands - bands.mean(1, keepdims=True)).astype(np.float32)


def offset_sums(lips: Floats, mel: Floats, weights: Weights) -> Floats:
    """How well lips (N, 3) and log-mel (80, 4 N) agree at each offset: (31,)."""
    watched, heard = embed(weights, "watch", prepared_lips(lips)), embed(weights, "hear", prepared_sound(mel))
    return agreement(weights, watched, heard, REACH)


def evidence(sums: Floats, known: int, weights: Weights) -> float:
    """What speaks for sync, against other offsets and against other sound, which count alike."""
    late = np.abs(np.arange(-REACH, REACH + 1))
    near, far = sums[late <= _NEAR], sums[late >= _FAR]
    best = _log_sum(near)
    alone = (best + float(weights["none"])) / np.sqrt(known / _RATE)  # what is no more than chance grows so with time
    return float(np.arcsinh([best - _log_sum(far), alone]).sum())


def judged(sums: Floats, known: int, weights: Weights) -> Sync:
    """The verdict on what all pieces of a clip say; ``known`` are the 25ths of a second in which lips were seen."""
    slope, prior = weights["judge"].tolist()
    odds = slope * evidence(sums, known, weights) + prior
    best = int(sums.argmax())
    shift = 0.0
    if 0 < best < 2 * REACH:
        before, at, after = sums[best - 1 : best + 2].astype(float)
        shift = (after - before) / (2 * (2 * at - before - after)) if 2 * at > before + after else 0.0
    offset = round((best - REACH + float(np.clip(shift, -0.5, 0.5))) * 1000 / _RATE)
    return Sync(score=round(float(1 / (1 + np.exp(-odds))), 4), offset_ms=float(offset))


def _log_sum(values: Floats) -> float:
    largest = float(values.max())
    return largest + float(np.log(np.exp(values - largest).sum()))
