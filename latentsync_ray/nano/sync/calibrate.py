"""What makes a probability of the evidence: a logistic regression on excerpts of tracks that the networks have not heard.

Half of them are in sync, as many of the others out of sync as of another sound. So that much is the prior: whoever knows that
one clip of a hundred is bad may think better of a middling score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

from latentsync_ray.nano.sync.ear import excerpt
from latentsync_ray.nano.sync.tracks import Track
from latentsync_ray.sync.networks import Weights
from latentsync_ray.sync.score import REACH, evidence, offset_sums

__all__ = ["calibrated"]

_LENGTHS = (40, 250)
"""Frames, drawn so that each doubling is as likely."""
_OUT_OF_SYNC = 3
"""Frames from which on lips count as late or early."""
_MISREAD = 1.5
"""By how much more lips are misread here, at most, than in the networks' training, in standard deviations: real ones are."""


def calibrated(weights: Weights, tracks: Sequence[Track], *, excerpts: int) -> dict[str, np.ndarray]:
    """``judge``: slope and prior of the odds."""
    draw = np.random.default_rng(83)
    rows, together = np.ones((excerpts, 2)), np.arange(excerpts) % 2 == 0
    late_ones = [late for late in range(-REACH, REACH + 1) if abs(late) >= _OUT_OF_SYNC]
    for number, right in enumerate(together):
        frames = round(np.exp(draw.uniform(*np.log(_LENGTHS))))
        wrong = None if draw.random() < 0.5 else int(draw.choice(late_ones))
        each = excerpt(tracks, draw, frames, late=int(draw.integers(-1, 2)) if right else wrong)
        sums = offset_sums(_misread(each.lips, draw), each.mel, weights)
        rows[number, 0] = evidence(sums, int(np.isfinite(each.lips).all(1).sum()), weights)
    odds = _regression(rows, together)
    print("judge:", odds, flush=True)
    return {"judge": odds.astype(np.float32)}


def _misread(lips: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    noise = gaussian_filter1d(draw.normal(0, 1, (len(lips) + 60, 3)), draw.uniform(0.8, 6), axis=0)[30:-30]
    size = draw.uniform(0, _MISREAD) * (np.nanstd(lips, axis=0) + 0.02)
    return (lips + size * noise / (noise.std(0) + 1e-6)).astype(np.float32)


def _regression(rows: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Logistic regression by Newton's method, with a little ridge."""
    odds = np.zeros(rows.shape[1])
    for _ in range(30):
        likely = 1 / (1 + np.exp(-rows @ odds))
        slope = rows.T @ (truth - likely) - 1e-3 * odds
        bend = (rows * (likely * (1 - likely))[:, None]).T @ rows + 1e-3 * np.eye(len(odds))
        odds = odds + np.linalg.solve(bend, slope)
    return odds
