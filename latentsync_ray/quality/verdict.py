"""From what was noted of each face in each frame to the columns of a clip's record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from latentsync_ray.quality.marks import TRAITS

__all__ = ["COLUMNS", "Noted", "verdict"]

COLUMNS = ("seam", "sharpness", "flicker", "identity", "skin_shift", "speech_motion", "silence_motion")
"""Each of them has another column beside it, ``{name}_frame``, but for ``speech_motion``."""
_MOMENT = 0.2
"""Seconds that something wrong has to last to be seen as more than a blink."""
_WORST = 95
"""Percentile of frames."""
_LOUD, _QUIET = 12.0, 30.0
"""dB under the loudest speech: above the first it is loud, below the second silent."""
_HEARD, _NOTHING = -45.0, -60.0
"""dB of full scale: a speech whose loudest is not above the first is all silence; what is below the second always is."""
_SETTLED = 0.12
"""Seconds after and before speech in which lips may still move."""
_SHORTEST = 0.4
"""Seconds of silence, or of speech, under which nothing is said of them."""
_STILL = 1.0
"""Grey levels of motion that are nothing to compare with: about what is left of a head that moves."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Noted:
    """Of the P faces of a clip of T frames."""

    frames: np.ndarray
    """Output frame of each, int (P,)."""
    tracks: np.ndarray
    """Which face it is, int (P,)."""
    traits: np.ndarray
    """float (P, 5); see ``marks``."""
    grids: np.ndarray
    """uint8 (P, 2, 8, 12)."""
    cells: np.ndarray
    """float32 (2, 8, 12): how much each of their cells shows what the model draws, and of that the lips."""
    level: np.ndarray
    """How loud the speech is during each frame, dB of full scale: float (T,), NaN where unknown."""


def verdict(noted: Noted, fps: Fraction) -> dict[str, Any]:
    """Columns of the record, by name; None where nothing can be told."""
    order = np.lexsort((noted.frames, noted.tracks))
    frames, tracks, traits, grids = (each[order] for each in (noted.frames, noted.tracks, noted.traits, noted.grids))
    runs = np.split(np.arange(len(frames)), np.flatnonzero((np.diff(frames) != 1) | (np.diff(tracks) != 0)) + 1)
    trait = dict(zip(TRAITS, traits.astype(np.float64).T, strict=True))
    flicker, motion = _changes(grids, runs, noted.cells)
    moment = max(1, round(_MOMENT * fps))
    flicker, shift = (_averaged(curve, runs, moment) for curve in (flicker, trait["skin_shift"]))
    quiet, loud = _silent(noted.level, fps), _loud(noted.level)
    return {
        **_column("seam", trait["seam"], frames, _high),
        **_column("sharpness", np.sqrt(trait["detail"] / trait["source_detail"]), frames, np.median, worst=np.argmin),
        **_column("flicker", flicker, frames, np.max),
        **_column("identity", trait["identity"], frames, np.median, worst=np.argmin),
        **_column("skin_shift", shift, frames, np.max),
        "speech_motion": _mean(motion[:, 1], loud[frames], _SHORTEST * fps),
        **_silence(motion, frames, quiet, loud, _SHORTEST * fps),
    }


def _column(
    name: str,
    curve: np.ndarray,
    frames: np.ndarray,
    total: Callable[[np.ndarray], Any],
    *,
    worst: Callable[[np.ndarray], Any] = np.argmax,
) -> dict[str, Any]:
    """The column and the frame at which it is worst."""
    known = np.isfinite(curve)
    if not known.any():
        return {name: None, f"{name}_frame": None}
    return {name: float(total(curve[known])), f"{name}_frame": int(frames[known][worst(curve[known])])}


def _high(curve: np.ndarray) -> float:
    return float(np.percentile(curve, _WORST))


def _changes(grids: np.ndarray, runs: Sequence[np.ndarray], cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each face is off both its neighbours in time, beyond what was filmed: (P,). And how its lips moved: (P, 2).

    Before and after, in grey levels. NaN where a neighbour is missing.
    """
    flicker, motion = np.full(len(grids), np.nan), np.full((len(grids), 2), np.nan)
    drawn, lips = cells
    for run in runs:
        pictures = grids[run].astype(np.float32)
        motion[run[1:]] = _weighed(np.abs(np.diff(pictures, axis=0)), lips)
        between = np.median(np.stack([pictures[:-2], pictures[1:-1], pictures[2:]]), axis=0)
        alone = _weighed(np.abs(pictures[1:-1] - between), drawn)
        flicker[run[1:-1]] = np.maximum(alone[:, 1] - alone[:, 0], 0)
    return flicker, motion


def _weighed(pictures: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean of pictures (..., 8, 12): (...)."""
    return (pictures * weight).sum((-2, -1), dtype=np.float64) / max(float(weight.sum()), 1e-6)


def _averaged(curve: np.ndarray, runs: Sequence[np.ndarray], length: int) -> np.ndarray:
    """The mean over so many frames on end, at the middle one; NaN where not all are known."""
    averaged = np.full(len(curve), np.nan)
    for run in runs:
        if len(run) >= length:
            means = np.convolve(curve[run], np.full(length, 1 / length), mode="valid")
            averaged[run[length // 2 :][: len(means)]] = means
    return averaged


def _loud(level: np.ndarray) -> np.ndarray:
    """bool (T,): frames in which somebody speaks up."""
    top = _loudest(level)
    return np.zeros(len(level), np.bool_) if top < _HEARD else level > top - _LOUD


def _silent(level: np.ndarray, fps: Fraction) -> np.ndarray:
    """bool (T,): frames with nothing to be heard, now or a moment before and after."""
    top = _loudest(level)
    sound = ~(level < (np.inf if top < _HEARD else max(top - _QUIET, _NOTHING)))  # unknown is sound
    reach = round(_SETTLED * fps)
    return np.convolve(sound, np.ones(2 * reach + 1), mode="full")[reach : reach + len(sound)] < 0.5


def _loudest(level: np.ndarray) -> float:
    known = level[np.isfinite(level)]
    return float(np.percentile(known, _WORST)) if len(known) else -np.inf


def _mean(values: np.ndarray, where: np.ndarray, fewest: float) -> float | None:
    chosen = values[where & np.isfinite(values)]
    return float(chosen.mean()) if len(chosen) >= max(fewest, 1) else None


def _silence(motion: np.ndarray, frames: np.ndarray, quiet: np.ndarray, loud: np.ndarray, fewest: float) -> dict[str, Any]:
    """The lips' motion in silence against that in speech, or against the filmed one where that is more."""
    still = _mean(motion[:, 1], quiet[frames], fewest)
    if still is None:
        return {"silence_motion": None, "silence_motion_frame": None}
    spoken, filmed = _mean(motion[:, 1], loud[frames], fewest), _mean(motion[:, 0], np.ones(len(frames), np.bool_), fewest)
    moving = max(spoken or 0.0, filmed or 0.0, _STILL)
    return _column("silence_motion", np.where(quiet[frames], motion[:, 1], np.nan) / moving, frames, np.mean)
