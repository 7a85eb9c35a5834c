"""One face through a clip: where it is in every frame, with only a few frames in memory.

Decides when the detector looks and which of the faces is followed: the largest at first, then the same one for as long as it
can be; a cut starts anew. How looks become steady points is ``track``'s affair, how a face moves between two frames ``flow``'s.

Looks fall on fixed row numbers and matter for a bounded number of rows only, so that a pass that starts ``warm_up`` rows early
arrives at the same points as a pass from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from latentsync_ray.faces import Detector
from latentsync_ray.faces.align import box_around
from latentsync_ray.faces.flow import changed_abruptly
from latentsync_ray.faces.track import BRIDGED, REACH, Followed, Track, missing, nearest
from latentsync_ray.template import Template

__all__ = ["Followed", "Follower"]

_SEARCH = 6
"""Rows from look to look while no face is followed. As many whole frames, and ``BRIDGED`` more, are held meanwhile, to track
back through: a face may have been there when the last look missed it."""
_ABSENCE = 48
"""Rows for which a lost face is waited for, rather than taking another."""


class Follower:
    """Follows one face through frames. Keeps nothing between passes."""

    def __init__(self, detector: Detector, template: Template) -> None:
        self.detector, self.template = detector, template

    @property
    def warm_up(self) -> int:
        """How many rows early a pass has to start to give the same points as one from the beginning.

        The reach of looks; and as much again, in which the first looks, off the fixed rows and with no knowledge of where the
        face was before, pass out of reach. When every frame is looked at, the longest gap that is bridged.
        """
        return BRIDGED if self.detector.interval == 1 else 2 * REACH * self.detector.interval

    def __call__(self, frames: Iterable[tuple[int, np.ndarray]]) -> Iterator[Followed]:
        """Find the face in each frame: one Followed per frame, in order, up to four detection intervals after it was read.

        ``frames`` are (row, uint8 (H, W, 3) RGB) in display order, rows rising. A frame must not be written to once it is
        given.
        """
        return self._look_always(frames) if self.detector.interval == 1 else self._look_sometimes(frames)

    def _look_always(self, frames: Iterable[tuple[int, np.ndarray]]) -> Iterator[Followed]:
        ours, last = _Ours(), None
        before: np.ndarray | None = None  # the points in the frame before the gap
        gap: list[tuple[int, np.ndarray]] = []
        for row, frame in frames:
            if last is not None and changed_abruptly(last, frame):
                ours.forget()
                yield from (missing(each) for each, _ in gap)
                gap, before = [], None
            landmarks = ours.among(self.detector(frame, None if ours.landmarks is None else box_around(ours.landmarks)), row)
            if landmarks is None:
                gap.append((row, frame))
                if len(gap) > BRIDGED:
                    yield missing(gap.pop(0)[0])
                    before = None
            else:
                ours.remember(row, landmarks)
                track = Track(row, frame, landmarks, self.template, interval=1)
                if before is None or not track.bridge(gap, before):
                    unseen = track.extend_back([*gap, (row, frame)])
                    yield from (missing(each) for each, _ in gap[:unseen])
                yield from track.unsmoothed()
                gap, before = [], landmarks
            last = frame
        yield from (missing(row) for row, _ in gap)

    def _look_sometimes(self, frames: Iterable[tuple[int, np.ndarray]]) -> Iterator[Followed]:
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
                    track.look(row, self.detector(frame, box_around(track.landmarks)))
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
                    yield from (missing(row) for row, _ in waiting[:faceless])
                    waiting = [] if track else waiting[faceless:]
            last_row, last = row, frame
        yield from track.rest() if track else (missing(row) for row, _ in waiting)

    def _found(self, waiting: list[tuple[int, np.ndarray]], ours: _Ours, before: Followed | None) -> tuple[Track | None, int]:
        """Look for our face in the last waiting frame: a track back to where it appeared, and how many are before."""
        row, frame = waiting[-1]
        landmarks = ours.among(self.detector(frame), row)
        if landmarks is None:
            return None, len(waiting)
        track = Track(row, frame, landmarks, self.template, interval=self.detector.interval)
        faceless = track.extend_back(waiting)
        if faceless and before is not None and before.landmarks is not None and before.row == waiting[0][0] - 1:
            faceless = 0 if track.bridge(waiting[:faceless], before.landmarks) else faceless
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


def _due(row: int, last_row: int, every: int) -> bool:
    """Whether a multiple of ``every`` has been reached since the last row: fixed rows, wherever the pass began."""
    return row // every != last_row // every
