"""Which face speaks, frame by frame, and how much of it is shown.

The rules are those of ``recipe.face``. For ``speaking`` the openings of all mouths are held against the video's own sound: the
one whose opening goes with the sound has the word until another explains it better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentsync_ray.faces.tracks import Track, Tracks
from latentsync_ray.faces.visible import obstacles
from latentsync_ray.reasons import Reason

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
_NOBODY = 1e6
"""Cost of giving the word to a face that is not there."""
_LEAST_OPENING = 0.08
"""Brow distances between shut and open of a mouth that does both."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """How much of each track is shown, by which rule that was decided, and why nothing is shown elsewhere."""

    weights: dict[int, np.ndarray]
    """Track id -> float32 (n,) by the track's own frames, 0 to 1; of those that are shown at all."""
    rule: str
    reasons: np.ndarray
    """uint8 (stop,): a ``Reason`` for each row."""


def needs_sound(tracks: Tracks, face: str) -> bool:
    """Whether ``choose`` would listen to the video's own sound: where two faces can be seen at once."""
    if face != "speaking":
        return False
    present = np.zeros(tracks.stop, np.int32)
    for track in tracks.tracks:
        present[track.rows] += 1
    return bool((present > 1).any())


def choose(tracks: Tracks, face: str, *, size: tuple[int, int], seconds: np.ndarray, sound: np.ndarray | None = None) -> Choice:
    """What of each track is shown.

    ``size`` is the frame's (width, height) in px; ``seconds`` when each row is shown and ``sound`` how loud it is then, 0
    to 1: both (stop,).
    """
    chosen, rule = _assigned(tracks, face, seconds=seconds, sound=sound)
    shown, reasons = {}, np.full(tracks.stop, Reason.NO_FACE, np.uint8)
    for track in tracks.tracks:
        first, last = tracks.shot(track.shot)
        reason = np.where(chosen[track.id], obstacles(track, size), Reason.NOT_SPEAKER)
        weight = _weights(track, reason == Reason.SHOWN, first, last)
        if weight.any():
            shown[track.id] = weight
        reason[(reason == Reason.SHOWN) & (weight == 0)] = Reason.TOO_BRIEF
        reasons[track.rows] = np.maximum(reasons[track.rows], reason)
    for track in tracks.tracks:
        if track.id in shown:
            reasons[track.rows[shown[track.id] > 0]] = Reason.SHOWN
    return Choice(shown, rule, reasons)


def _assigned(tracks: Tracks, face: str, *, seconds: np.ndarray, sound: np.ndarray | None) -> tuple[dict[int, np.ndarray], str]:
    """Track id -> bool (n,): its frames in which it has the word."""
    every = tracks.tracks
    if face == "all":
        return {track.id: np.ones(len(track), np.bool_) for track in every}, "all"
    if face.isdigit():
        return {track.id: np.full(len(track), track.id == int(face)) for track in every}, "track"
    if "," in face:
        return _at_point(every, face, seconds), "point"
    alone = not needs_sound(tracks, "speaking")
    if face == "speaking" and sound is not None and not alone:
        spoken = _speaking(tracks, sound)
        if spoken is not None:
            return spoken, "speaking"
    chosen: dict[int, np.ndarray] = {}
    for number, those in _by_shot(every).items():
        chosen |= _largest(those, *tracks.shot(number))
    return chosen, "only" if alone else "largest"


def _by_shot(tracks: Sequence[Track]) -> dict[int, list[Track]]:
    shots: dict[int, list[Track]] = {}
    for track in tracks:
        shots.setdefault(track.shot, []).append(track)
    return shots


def _largest(tracks: Sequence[Track], first: int, last: int) -> dict[int, np.ndarray]:
    """Of one shot: the largest face; another only while that is away for long."""
    free, chosen = np.ones(last - first, np.bool_), {}
    for track in sorted(tracks, key=lambda each: (-float(each.areas.sum()), each.id)):
        rows = track.rows - first
        chosen[track.id] = free[rows]
        free[rows] = False
        for place in np.flatnonzero((np.diff(rows) > 1) & (np.diff(rows) <= _ABSENCE)):
            free[rows[place] : rows[place + 1]] = False
    return chosen


def _at_point(tracks: Sequence[Track], face: str, seconds: np.ndarray) -> dict[int, np.ndarray]:
    """In each shot, the track that is at the point for longest; with a time, the one that is there then."""
    match = re.fullmatch(r"([\d.]+),([\d.]+)(?:@([\d.]+))?", face)
    assert match is not None
    x, y, moment = (None if number is None else float(number) for number in match.groups())
    chosen = {track.id: np.zeros(len(track), np.bool_) for track in tracks}
    at: dict[int | None, list[tuple[int, int, Track]]] = {}
    for track in tracks:
        x0, y0, x1, y1 = track.box.T
        there = (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
        if moment is not None:
            then = max(0, int(np.searchsorted(seconds, moment + 1e-6, side="right")) - 1)
            there &= np.abs(track.rows - then) <= 1
        if there.any():
            at.setdefault(None if moment is not None else track.shot, []).append((-int(there.sum()), track.id, track))
    for candidates in at.values():
        _, number, _ = min(candidates, key=lambda each: each[:2])
        chosen[number][:] = True
    return chosen


def _speaking(tracks: Tracks, sound: np.ndarray) -> dict[int, np.ndarray] | None:
    """By the sound; None when nobody's mouth follows it."""
    opened = {track.id: _opening(track) for track in tracks.tracks}
    known = [
        (track.rows[fine], opened[track.id][fine]) for track in tracks.tracks if (fine := np.isfinite(opened[track.id])).any()
    ]
    lags = {lag: max((_correlation(mouth, np.roll(sound, lag)[rows]) for rows, mouth in known), default=-1.0) for lag in _LAGS}
    loud = np.roll(sound, max(lags, key=lambda lag: lags[lag]))
    chosen: dict[int, np.ndarray] = {}
    said: list[np.ndarray] = []
    heard: list[np.ndarray] = []
    for number, those in _by_shot(tracks.tracks).items():
        first, last = tracks.shot(number)
        mouths = np.full((len(those), last - first), np.nan)
        for place, track in enumerate(those):
            mouths[place, track.rows - first] = opened[track.id]
        there = loud[first:last]
        cost = np.where(np.isfinite(mouths), (np.nan_to_num(mouths) - there) ** 2 / (2 * _DOUBT**2), _NOBODY)
        word = _viterbi(cost)
        for place, track in enumerate(those):
            chosen[track.id] = word[track.rows - first] == place
        speaks = np.take_along_axis(mouths, word[None], axis=0)[0]
        said.append(speaks[np.isfinite(speaks)])
        heard.append(there[np.isfinite(speaks)])
    follows = _correlation(np.concatenate(said), np.concatenate(heard)) if said else -1.0
    return chosen if follows >= _FOLLOWS else None


def _opening(track: Track) -> np.ndarray:
    """How far the mouth is open in each frame of the track, 0 to 1 of what this one does; NaN where that is not known."""
    mouth = track.mouth.astype(np.float64)
    if np.isfinite(mouth).sum() < 2:
        return np.full(len(track), np.nan)
    low, high = np.nanpercentile(mouth, [10, 95])
    return np.clip((mouth - low) / max(high - low, _LEAST_OPENING), 0, 1.2)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3 or first.std() == 0 or second.std() == 0:
        return -1.0
    return float(np.corrcoef(first, second)[0, 1])


def _viterbi(cost: np.ndarray) -> np.ndarray:
    """Who has the word in each frame of a shot, int (F,): least cost (tracks, F), with ``_SWITCH`` for each change."""
    count, length = cost.shape
    total, came_from = cost[:, 0].copy(), np.zeros((length, count), np.int32)
    for frame in range(1, length):
        best = int(total.argmin())
        stays = total <= total[best] + _SWITCH
        came_from[frame] = np.where(stays, np.arange(count), best)
        total = np.where(stays, total, total[best] + _SWITCH) + cost[:, frame]
    word = np.zeros(length, np.int64)
    word[-1] = int(total.argmin())
    for frame in range(length - 1, 0, -1):
        word[frame - 1] = came_from[frame, word[frame]]
    return word


def _weights(track: Track, shown: np.ndarray, first: int, last: int) -> np.ndarray:
    """How much of the track is shown in each of its frames: float32 (n,), faded where that begins or ends within the shot."""
    weight = np.zeros(len(track), np.float32)
    places = np.flatnonzero(shown)
    if not len(places):
        return weight
    for run in np.split(places, np.flatnonzero(np.diff(track.rows[places]) > 1) + 1):
        if len(run) < min(_FEWEST, last - first):
            continue
        ramp = np.ones(len(run), np.float32)
        steps = (np.arange(_FADE, dtype=np.float32) + 1) / (_FADE + 1)
        count = min(_FADE, (len(run) + 1) // 2)
        if track.rows[run[0]] > first:
            ramp[:count] = np.minimum(ramp[:count], steps[:count])
        if track.rows[run[-1]] < last - 1:
            ramp[len(run) - count :] = np.minimum(ramp[len(run) - count :], steps[:count][::-1])
        weight[run] = ramp
    return weight
