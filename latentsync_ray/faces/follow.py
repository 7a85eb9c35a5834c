"""One face through a clip: where it is in every frame, with only a few frames in memory.

Decides when the detector looks and which of the faces is followed: the largest at first, then the same one for as long as it
can be; a cut starts anew. How looks become steady points is ``optical``'s affair, how a face moves between two frames
``flow``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from latentsync_ray.faces import Detector, Face, size_of
from latentsync_ray.faces.flow import changed_abruptly
from latentsync_ray.faces.optical import BRIDGED, Followed, OpticalTrack, nearest

__all__ = ["Followed", "Follower"]

_SEARCH = 6
"""Rows from look to look while no face is followed. As many whole frames, and ``BRIDGED`` more, are held meanwhile, to track
back through: a face may have been there when the last look missed it."""
_ABSENCE = 48
"""Rows for which a lost face is waited for, rather than taking another."""


class Follower:
    """Follows one face through frames. Keeps nothing between passes."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def __call__(self, frames: Iterable[tuple[int, np.ndarray]]) -> Iterator[Followed]:
        """Find the face in each frame: one Followed per frame, in order, up to four detection intervals after it was read.

        ``frames`` are (row, uint8 (H, W, 3) RGB) in display order, rows rising. A frame must not be written to once it is
        given.
        """
        ours, track, last_row, last = _Ours(), None, -1, None
        waiting: list[tuple[int, np.ndarray]] = []  # frames not known to show a face: the last ones, and those since the search
        before: Followed | None = None  # the last that was seen of the face, in this shot
        for row, frame in frames:
            search = last is None or _due(row, last_row, _SEARCH)
            if track and last is not None and not track.extend(last, row, frame):
                for before in track.rest():
                    yield before
                track, search = None, True
            if track:
                if _due(row, last_row, self.detector.interval):
                    track.look(row, _points(self.detector(frame, [Face(landmarks=track.landmarks)], search=False)))
                if track.confirmed:
                    ours.remember(row, track.landmarks)
                yield from track.rest() if track.given_up else track.settled()
                track = None if track.given_up else track
            else:
                waiting.append((row, frame))
                if last is not None and changed_abruptly(last, frame):
                    ours.forget()
                    before, search = None, True
                if search:
                    track, faceless = self._found(waiting, ours, before)
                    if track is None:  # the last ones may yet be tracked back to
                        faceless = max(0, len(waiting) - BRIDGED)
                    yield from ((row, None) for row, _ in waiting[:faceless])
                    waiting = [] if track else waiting[faceless:]
            last_row, last = row, frame
        yield from track.rest() if track else ((row, None) for row, _ in waiting)

    def _found(
        self, waiting: list[tuple[int, np.ndarray]], ours: _Ours, before: Followed | None
    ) -> tuple[OpticalTrack | None, int]:
        """Look for our face in the last waiting frame: a track back to where it appeared, and how many are before."""
        row, frame = waiting[-1]
        landmarks = ours.among(_points(self.detector(frame)), row)
        if landmarks is None:
            return None, len(waiting)
        track = OpticalTrack(row, landmarks, interval=self.detector.interval)
        faceless = track.extend_back(waiting)
        if faceless and before is not None and before[1] is not None and before[0] == waiting[0][0] - 1:
            gap = [earlier for earlier, _ in waiting[:faceless]]
            faceless = 0 if track.bridge(gap, before[1]) else faceless
        return track, faceless


class _Ours:
    """Which of several faces is the one to follow."""

    def __init__(self) -> None:
        self.row, self.landmarks = 0, None

    def remember(self, row: int, landmarks: np.ndarray) -> None:
        self.row, self.landmarks = row, landmarks

    def forget(self) -> None:
        self.landmarks = None

    def among(self, faces: np.ndarray, row: int) -> np.ndarray | None:
        """The face that may be the remembered one; the largest when none is remembered or its absence has been too long."""
        if self.landmarks is not None and row - self.row <= _ABSENCE:
            return nearest(faces, self.landmarks, distance=4, ratio=2)
        return faces[0].astype(np.float64) if len(faces) else None


def _points(faces: list[Face]) -> np.ndarray:
    """float64 (N, 3, 2), largest first."""
    points = [face.landmarks for face in sorted(faces, key=lambda face: -size_of(face.landmarks))]
    return np.array(points, np.float64).reshape(-1, 3, 2)


def _due(row: int, last_row: int, every: int) -> bool:
    """Whether a multiple of ``every`` has been reached since the last row: fixed rows, wherever the pass began."""
    return row // every != last_row // every
