"""Which face speaks, frame by frame, and how much of it is shown.

The rules are those of ``recipe.face``. For ``speaking`` the openings of all mouths are held against the video's own sound: the
one whose opening goes with the sound has the word until another explains it better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from latentsync_ray.faces.tracks import Track, Tracks
from latentsync_ray.faces.visible import usable

__all__ = ["Choice", "choose", "needs_sound"]

_ABSENCE = 48
"""Frames for which a chosen face is waited for, rather than taking another."""
_FADE = 4
"""Frames in which a new mouth comes and goes, where it does so within a shot."""
_FEWEST = 3
"""A face that is shown for fewer frames than this is not dubbed there."""
_DOUBT = 0.25
"""Standard deviation of a mouth's opening from the sound's loudness, both 0 to 1."""
_SWITCH = 6.0
"""How much more likely (log) another mouth has to be, all in all, to take the word."""
_LAGS = range(-3, 5)
"""Frames by which mouths may be ahead of the sound or behind it."""
_FOLLOWS = 0.2
"""Least correlation of the chosen mouths with the sound: below it, nobody seen speaks."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """How much of each track is shown, and by which rule that was decided."""

    weights: dict[int, np.ndarray]
    """Track id -> float32 (stop,) by row, 0 to 1; of those that are shown at all."""
    rule: str


def needs_sound(tracks: Tracks, face: str) -> bool:
    """Whether ``choose`` would listen to the video's own sound."""
    if face != "speaking":
        return False
    present = [_present(track, tracks.stop) for track in tracks.tracks]
    return bool(present) and bool((np.sum(present, axis=0) > 1).any())


def choose(tracks: Tracks, face: str, *, size: tuple[int, int], fps: float, sound: np.ndarray | None = None) -> Choice:
    """What of each track is shown.

    ``size`` is the frame's (width, height) in px, ``sound`` the loudness at each row: (stop,), 0 to 1.
    """
    chosen, rule = _assigned(tracks, face, fps=fps, sound=sound)
    shown = {}
    for track in tracks.tracks:
        weight = _weights(track, chosen[track.id], tracks, size)
        if weight.any():
            shown[track.id] = weight
    return Choice(shown, rule)


def _assigned(tracks: Tracks, face: str, *, fps: float, sound: np.ndarray | None) -> tuple[dict[int, np.ndarray], str]:
    """Track id -> bool (stop,): the rows in which it has the word."""
    stop, every = tracks.stop, tracks.tracks
    if face == "all":
        return {track.id: _present(track, stop) for track in every}, "all"
    if face.isdigit():
        return {track.id: _present(track, stop) & (track.id == int(face)) for track in every}, "track"
    if "," in face:
        return _at_point(tracks, face, fps), "point"
    alone = not needs_sound(tracks, "speaking")
    if face == "speaking" and sound is not None and not alone:
        spoken = _speaking(tracks, sound)
        if spoken is not None:
            return spoken, "speaking"
    chosen: dict[int, np.ndarray] = {track.id: np.zeros(stop, np.bool_) for track in every}
    for shot in np.unique([track.shot for track in every]):
        _largest([track for track in every if track.shot == shot], stop, chosen)
    return chosen, "only" if alone else "largest"


def _present(track: Track, stop: int) -> np.ndarray:
    present = np.zeros(stop, np.bool_)
    present[track.rows] = True
    return present


def _largest(tracks: Sequence[Track], stop: int, chosen: dict[int, np.ndarray]) -> None:
    """Of one shot: the largest face; another only while that is away for long."""
    free = np.ones(stop, np.bool_)
    for track in sorted(tracks, key=lambda each: (-float(each.areas.sum()), each.id)):
        rows = track.rows[free[track.rows]]
        chosen[track.id][rows] = True
        seen = np.flatnonzero(_present(track, stop))
        for before, after in pairwise(seen):
            if after - before <= _ABSENCE:
                free[before:after] = False
        free[track.rows] = False


def _at_point(tracks: Tracks, face: str, fps: float) -> dict[int, np.ndarray]:
    """In each shot, the track that is at the point for longest; with a time, the one that is there then."""
    match = re.fullmatch(r"([\d.]+),([\d.]+)(?:@([\d.]+))?", face)
    assert match is not None
    x, y, seconds = (None if number is None else float(number) for number in match.groups())
    chosen = {track.id: np.zeros(tracks.stop, np.bool_) for track in tracks.tracks}
    at = {}
    for track in tracks.tracks:
        x0, y0, x1, y1 = track.box.T
        there = (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
        if seconds is not None:
            there &= np.abs(track.rows - round(seconds * fps)) <= 1
        if there.any():
            at.setdefault(None if seconds is not None else track.shot, []).append((-int(there.sum()), track.id, track))
    for candidates in at.values():
        _, _, track = min(candidates, key=lambda each: each[:2])
        chosen[track.id][track.rows] = True
    return chosen


def _speaking(tracks: Tracks, sound: np.ndarray) -> dict[int, np.ndarray] | None:
    """By the sound; None when nobody's mouth follows it."""
    every, stop = tracks.tracks, tracks.stop
    opened = np.stack([_opening(track, stop) for track in every])  # NaN where a track is not
    lag = max(_LAGS, key=lambda each: _agreement(opened, _shifted(sound, each)))
    loud = _shifted(sound, lag)
    cost = np.where(np.isfinite(opened), (np.nan_to_num(opened) - loud) ** 2 / (2 * _DOUBT**2), np.inf)
    word = _viterbi(np.minimum(cost, 1e6), tracks.shots)
    chosen = {track.id: (word == number) & np.isfinite(opened[number]) for number, track in enumerate(every)}
    said = np.take_along_axis(np.nan_to_num(opened), word[None], axis=0)[0]
    known = np.isfinite(opened).any(0)
    return chosen if _correlation(said[known], loud[known]) >= _FOLLOWS else None


def _opening(track: Track, stop: int) -> np.ndarray:
    """How far the mouth is open at each row, 0 to 1 of what this one does; NaN where it is not."""
    opening = np.full(stop, np.nan)
    mouth = track.mouth.astype(np.float64)
    if np.isfinite(mouth).sum() < 2:
        return opening
    low, high = np.nanpercentile(mouth, [10, 95])
    opening[track.rows] = np.clip((mouth - low) / max(high - low, 0.08), 0, 1.2)
    return opening


def _shifted(sound: np.ndarray, frames: int) -> np.ndarray:
    return np.roll(sound, frames) if frames else sound


def _agreement(opened: np.ndarray, loud: np.ndarray) -> float:
    return max(_correlation(each[known], loud[known]) for each in opened if (known := np.isfinite(each)).any())


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3 or first.std() == 0 or second.std() == 0:
        return -1.0
    return float(np.corrcoef(first, second)[0, 1])


def _viterbi(cost: np.ndarray, shots: np.ndarray) -> np.ndarray:
    """Who has the word at each row, int (stop,): least cost (tracks, stop) with ``_SWITCH`` for each change within a shot."""
    count, stop = cost.shape
    cuts = set(shots.tolist())
    total, came_from = cost[:, 0].copy(), np.zeros((stop, count), np.int32)
    for row in range(1, stop):
        best = int(total.argmin())
        change = total[best] + (0.0 if row in cuts else _SWITCH)
        stays = total <= change
        came_from[row] = np.where(stays, np.arange(count), best)
        total = np.where(stays, total, change) + cost[:, row]
    word = np.zeros(stop, np.int64)
    word[-1] = int(total.argmin())
    for row in range(stop - 1, 0, -1):
        word[row - 1] = came_from[row, word[row]]
    return word


def _weights(track: Track, chosen: np.ndarray, tracks: Tracks, size: tuple[int, int]) -> np.ndarray:
    """How much of the track is shown at each row: float32 (stop,), faded where it begins or ends within a shot."""
    shown = np.zeros(tracks.stop, np.bool_)
    shown[track.rows[usable(track, size)]] = True
    shown &= chosen
    weight = np.zeros(tracks.stop, np.float32)
    first = int(tracks.shots[track.shot])
    last = int(tracks.shots[track.shot + 1]) if track.shot + 1 < len(tracks.shots) else tracks.stop
    frames = np.flatnonzero(shown)
    for run in np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1):
        if len(run) < min(_FEWEST, last - first):
            continue
        ramp = np.ones(len(run), np.float32)
        steps = (np.arange(_FADE, dtype=np.float32) + 1) / (_FADE + 1)
        count = min(_FADE, (len(run) + 1) // 2)
        if run[0] > first:
            ramp[:count] = np.minimum(ramp[:count], steps[:count])
        if run[-1] < last - 1:
            ramp[len(run) - count :] = np.minimum(ramp[len(run) - count :], steps[:count][::-1])
        weight[run] = ramp
    return weight
