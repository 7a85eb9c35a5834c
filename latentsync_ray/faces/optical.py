"""One face from where it was found to where it was lost, by optical flow between looks, made steady.

A detector's looks are right on average but noisy; optical flow is steady from frame to frame but drifts. So each look is
carried along the flow to its neighbours in time, the median over neighbouring looks is taken, and between looks the medians are
interpolated. Only looks within a few intervals count, so that frames can be let go that many intervals later. Knows nothing
about when to look, nor which face to follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from latentsync_ray.faces import size_of
from latentsync_ray.faces.flow import alike, between, move, movement

__all__ = ["BRIDGED", "Followed", "OpticalTrack", "interpolated", "nearest"]

_MISSES = 4
"""Looks in a row that a face may miss while it can be tracked (two seconds: turned away, covered, blurred)."""
_FALSE_ALARM = 2
"""Looks in a row after which a face that was only ever seen once has been foliage."""
_NEIGHBOURS = 3
"""Looks on either side that a look's median is taken over: seven in all. With five the first second was further off."""
_REACH = _NEIGHBOURS + 1
"""Detection intervals within which looks matter to a frame: the next look, and that look's neighbours."""
BRIDGED = 3
"""Frames in a row that a face may go unseen and still count as there: blinks of the detector, not a covered face."""


Followed = tuple[int, np.ndarray | None]
"""A row, and brows and nose there as float64 (3, 2) in px of the frame, or None where there is no face."""


def nearest(faces: np.ndarray, landmarks: np.ndarray, *, distance: float, ratio: float) -> np.ndarray | None:
    """The one of ``faces`` (N, 3, 2) closest to ``landmarks``, at most ``distance`` sizes off and ``ratio`` larger."""
    size = size_of(landmarks)
    apart = [(float(np.linalg.norm(face.mean(0) - landmarks.mean(0))), face) for face in faces]
    alike = [pair for pair in apart if pair[0] <= distance * size and 1 / ratio <= size_of(pair[1]) / size <= ratio]
    return min(alike, key=lambda pair: pair[0])[1].astype(np.float64) if alike else None


def interpolated(landmarks: np.ndarray, other: np.ndarray, count: int) -> list[np.ndarray]:
    """The points of ``count`` frames between two sightings."""
    return [landmarks + (other - landmarks) * number / (count + 1) for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A row on its way out. ``pose`` (3, 3) takes the px of the frame in which the face was found to those of this one."""

    row: int
    pose: np.ndarray


class OpticalTrack:
    """Begins with a look at ``row``; grows by ``extend`` and ``look``; ``settled`` and ``rest`` let its rows go, in order."""

    def __init__(self, row: int, landmarks: np.ndarray, *, interval: int) -> None:
        self._calm = _NEIGHBOURS * interval
        self._reach = _REACH * interval
        self.misses = 0
        """Looks in a row that have not found the face."""
        self.confirmed = False
        """Whether it was found more than once."""
        self.landmarks = landmarks
        """Where the face is in the newest frame: the latest look, moved along. Not smoothed."""
        self._pose = np.eye(3)
        self._looks = {row: landmarks}  # points in px of the first frame
        self._found = row
        self._kept = deque([_Kept(row, self._pose)])

    def extend_back(self, frames: list[tuple[int, np.ndarray]]) -> int:
        """Follow the face back through earlier frames, given in display order and ending with the first of the track.

        Where it cannot be followed but looks the same in its place, up to ``BRIDGED`` frames are taken in all the same.
        Returns how many of them, at the beginning, do not show it.
        """
        pose, landmarks, bridged = self._pose, self.landmarks, 0
        for index in range(len(frames) - 2, -1, -1):
            row, frame = frames[index]
            step = movement(frames[index + 1][1], frame, landmarks)
            if step is None:
                bridged += 1
                if bridged > BRIDGED or not alike(frames[index + 1][1], frame, landmarks):
                    return index + 1
                step = np.eye(3)
            pose, landmarks = step @ pose, move(step, landmarks)
            self._kept.appendleft(_Kept(row, pose))
        return 0

    def bridge(self, gap: list[int], landmarks: np.ndarray) -> bool:
        """Take in the rows of a gap between a sighting at ``landmarks`` and this track's first frame, points interpolated.

        False when the gap is too long or the face not the same.
        """
        first = self._kept[0]
        found = move(first.pose, self._looks[self._found])
        if len(gap) > BRIDGED or nearest(found[None], landmarks, distance=1.0, ratio=1.4) is None:
            return False
        for row, points in reversed(list(zip(gap, interpolated(landmarks, found, len(gap)), strict=True))):
            self._kept.appendleft(_Kept(row, between(found, points) @ first.pose))
        return True

    def extend(self, before: np.ndarray, row: int, frame: np.ndarray) -> bool:
        """Follow the face from the newest frame into the next; False when it cannot be."""
        step = movement(before, frame, self.landmarks)
        if step is None:
            return False
        self._pose, self.landmarks = step @ self._pose, move(step, self.landmarks)
        self._kept.append(_Kept(row, self._pose))
        return True

    def look(self, row: int, faces: np.ndarray) -> None:
        """Take in what a detector sees in the newest frame."""
        face = nearest(faces, self.landmarks, distance=1.0, ratio=1.4)
        if face is None:
            self.misses += 1
            return
        self.misses, self.confirmed, self.landmarks = 0, True, face
        self._looks[row] = move(np.linalg.inv(self._pose), face)

    @property
    def given_up(self) -> bool:
        """Whether too many looks have missed the face to go on."""
        return self.misses >= (_MISSES if self.confirmed else _FALSE_ALARM)

    def settled(self) -> Iterator[Followed]:
        """The frames that no later look can change."""
        newest = self._kept[-1].row
        while self._kept[0].row + self._reach <= newest:
            yield self._smoothed(self._kept.popleft())

    def rest(self) -> Iterator[Followed]:
        """All other frames: the track ends here. They show no face when it was a false alarm."""
        false_alarm = self.given_up and not self.confirmed
        while self._kept:
            kept = self._kept.popleft()
            yield (kept.row, None) if false_alarm else self._smoothed(kept)

    def _smoothed(self, kept: _Kept) -> Followed:
        row = kept.row
        for old in [look for look in self._looks if look < row - self._reach][: len(self._looks) - 1]:
            del self._looks[old]  # one stays, however old: the face may have been turned away for long
        rows = np.array(list(self._looks))
        carried = np.array([move(kept.pose, points) for points in self._looks.values()])
        calm = [np.median(carried[np.abs(rows - look) <= self._calm], axis=0) for look in rows]
        after = int(np.searchsorted(rows, row))
        before = max(after - 1, 0)
        after = min(after, len(rows) - 1)
        share = (row - rows[before]) / (rows[after] - rows[before]) if before != after else 0.0
        return row, (1 - share) * calm[before] + share * calm[after]
