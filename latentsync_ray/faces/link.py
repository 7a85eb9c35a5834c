"""All faces of a video from one pass over its frames, one in memory at a time.

A detector that looks at every frame is asked for the faces that it knew a moment ago, and now and then for all; what lies where
a known face was is the same one. One that looks only now and then is left to ``follow``, which keeps to the largest face. A cut
ends every track. Knows neither smoothing nor what may be dubbed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from latentsync_ray.faces import Detector, Face, size_of
from latentsync_ray.faces.flow import CutFinder
from latentsync_ray.faces.follow import Follower
from latentsync_ray.faces.look import Look
from latentsync_ray.faces.tracks import Track, Tracks

__all__ = ["find_tracks"]

_SEARCH = 24
"""Rows from search to search while faces are known: a second, in which somebody may come in unseen; a quarter while none is."""
_LOST = 12
"""Rows for which a face that went unseen is still looked for where it was."""
_DISTANCE, _RATIO = 1.0, 1.5
"""How far a face may get from frame to frame, in its own sizes, and how much larger or smaller."""
_FEWEST = 3
"""A face that was seen less often is a false alarm."""
_PACKED = 256
"""Frames of a face that are held as objects."""
_THUMBNAIL = 96
"""Side of the picture that is kept of each face, px."""


@dataclass(slots=True, eq=False)
class _Live:
    """A track that goes on."""

    id: int
    shot: int
    rows: list[int] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)
    """The latest ones."""
    pieces: list[Track] = field(default_factory=list)
    """Those before, as arrays, which take a quarter of the memory."""
    best: float = 0.0
    picture: np.ndarray | None = None

    def add(self, row: int, face: Face, picture: np.ndarray, origin: tuple[int, int]) -> None:
        if len(self.faces) >= _PACKED:
            self.pieces.append(Track.of(self.id, self.shot, self.rows, self.faces))
            self.rows, self.faces = [], []
        self.rows.append(row)
        self.faces.append(face)
        worth = _worth(face)
        if worth > 1.1 * self.best:  # a new picture for every frame of a slow zoom would be a waste
            self.best, self.picture = worth, _thumbnail(picture, face.moved(-origin[0], -origin[1]))


def find_tracks(frames: Iterable[tuple[int, Look]], detector: Detector) -> Tracks:
    """The faces in ``frames``: (row, frame) in display order, rows from 0 without gaps.

    Their points are as the detector gave them, or as ``follow`` smoothed them.
    """
    shots = [0]
    if detector.interval > 1:
        tracks = _followed(_noting_cuts(frames, shots), detector, shots)
        stop = shots.pop()
    else:
        tracks, stop = _linked(frames, detector, shots)
    lengths = np.diff([*shots, stop])
    kept = [track for track in tracks if len(track) >= min(_FEWEST, int(lengths[track.shot]))]
    return Tracks(kept, np.array(shots, np.int32), stop)


def _linked(frames: Iterable[tuple[int, Look]], detector: Detector, shots: list[int]) -> tuple[list[Track], int]:
    live: list[_Live] = []
    ended: list[_Live] = []
    is_cut, count, stop = CutFinder(), 0, 0
    for row, frame in frames:
        stop = row + 1
        if is_cut(frame.sparse()):
            ended, live = ended + live, []
            shots.append(row)
        search = row == shots[-1] or row % (_SEARCH if live else _SEARCH // 4) == 0
        seen, picture, origin = _looked(frame, detector, [track.faces[-1] for track in live], search=search)
        for track in live:
            face = _nearest(seen, track.faces[-1])
            if face is not None:
                seen.remove(face)
                track.add(row, face, picture, origin)
        for face in sorted(seen, key=lambda each: -_area(each)):
            if not any(_nearest([face], track.faces[-1]) for track in live):
                live.append(_Live(count, len(shots) - 1))
                live[-1].add(row, face, picture, origin)
                count += 1
        gone = [track for track in live if row - track.rows[-1] > _LOST]
        ended, live = ended + gone, [track for track in live if track not in gone]
    return sorted(map(_finished, ended + live), key=lambda track: track.id), stop


def _looked(
    frame: Look, detector: Detector, known: list[Face], *, search: bool
) -> tuple[list[Face], np.ndarray, tuple[int, int]]:
    """The faces that are seen, the part of the frame that was looked at, and where that is."""
    reach = getattr(detector, "reach", None)
    if not known and not search:
        return [], np.zeros((0, 0, 3), np.uint8), (0, 0)
    if search or reach is None:
        picture = frame.rgb()
        return detector(picture, known, search=search), picture, (0, 0)
    boxes = np.array([face.bounds for face in known])
    margin = reach * (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
    low, high = (boxes[:, :2] - margin).min(0), (boxes[:, 2:] + margin).max(0)
    picture, (x, y) = frame.rgb_within((*np.floor(low).astype(int).tolist(), *np.ceil(high).astype(int).tolist()))
    seen = detector(picture, [face.moved(-x, -y) for face in known], search=False)
    return [face.moved(x, y) for face in seen], picture, (x, y)


def _finished(live: _Live) -> Track:
    track = Track.joined([*live.pieces, Track.of(live.id, live.shot, live.rows, live.faces)])
    track.thumbnail = b"" if live.picture is None else _jpeg(live.picture)
    return track


def _noting_cuts(frames: Iterable[tuple[int, Look]], shots: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The same frames as pictures. ``shots`` gets the rows after cuts, and at the end the number of rows."""
    is_cut, stop = CutFinder(), 0
    for row, frame in frames:
        if is_cut(frame.sparse()):
            shots.append(row)
        yield row, frame.rgb()
        stop = row + 1
    shots.append(stop)


def _followed(frames: Iterator[tuple[int, np.ndarray]], detector: Detector, shots: list[int]) -> list[Track]:
    """The one face that ``follow`` follows, cut where it is lost and where a shot ends."""
    rows: list[int] = []
    points: list[np.ndarray] = []
    for row, landmarks in Follower(detector)(frames):
        if landmarks is not None:
            rows.append(row)
            points.append(landmarks)
    if not rows:
        return []
    shot_of = np.searchsorted(shots[:-1], rows, side="right") - 1
    breaks = np.flatnonzero((np.diff(rows) > 1) | (np.diff(shot_of) > 0)) + 1
    tracks = []
    for run in np.split(np.arange(len(rows)), breaks):
        faces = [Face(landmarks=points[position]) for position in run]
        tracks.append(Track.of(len(tracks), int(shot_of[run[0]]), [rows[position] for position in run], faces))
    return tracks


def _nearest(faces: list[Face], before: Face) -> Face | None:
    """The one of ``faces`` that ``before`` may have become."""
    size, middle = size_of(before.landmarks), before.landmarks.mean(0)
    near = [(float(np.linalg.norm(face.landmarks.mean(0) - middle)), face) for face in faces]
    fitting = [
        pair for pair in near if pair[0] <= _DISTANCE * size and 1 / _RATIO <= size_of(pair[1].landmarks) / size <= _RATIO
    ]
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _area(face: Face) -> float:
    x0, y0, x1, y1 = face.bounds
    return (x1 - x0) * (y1 - y0)


def _worth(face: Face) -> float:
    """How good a picture of the face this frame gives: large, and looking into the camera."""
    yaw = face.turn[0] if face.turn else 0.0
    return _area(face) * max(0.1, float(np.cos(np.radians(yaw)))) ** 2


def _thumbnail(frame: np.ndarray, face: Face) -> np.ndarray:
    """The face and a little around it, upright: uint8 (96, 96, 3)."""
    left, right, _ = face.landmarks
    across = right - left
    zoom = _THUMBNAIL / (3.2 * float(np.linalg.norm(across)))
    turn = np.array([[across[0], across[1]], [-across[1], across[0]]]) / np.linalg.norm(across) * zoom
    matrix = np.column_stack([turn, np.full(2, _THUMBNAIL / 2) - turn @ face.landmarks.mean(0)])
    return cv2.warpAffine(frame, matrix, (_THUMBNAIL, _THUMBNAIL), flags=cv2.INTER_LINEAR)


def _jpeg(picture: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return data.tobytes() if done else b""
