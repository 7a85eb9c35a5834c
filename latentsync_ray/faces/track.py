"""One face from where it was found to where it was lost, made steady.

A detector's looks are right on average but noisy; optical flow is steady from frame to frame but drifts. So each look is
carried along the flow to its neighbours in time, the median over neighbouring looks is taken, and between looks the medians are
interpolated. Only looks within ``REACH`` intervals count, so that frames can be let go that many intervals later. Knows nothing
about when to look, nor which face to follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from latentsync_ray.faces.align import affine, crop_box
from latentsync_ray.faces.flow import alike, between, move, movement
from latentsync_ray.template import Template

__all__ = ["BRIDGED", "REACH", "Followed", "Track", "crop_region", "interpolated", "missing", "nearest"]

_MISSES = 4
"""Looks in a row that a face may miss while it can be tracked (two seconds: turned away, covered, blurred)."""
_FALSE_ALARM = 2
"""Looks in a row after which a face that was only ever seen once has been foliage."""
_NEIGHBOURS = 3
"""Looks on either side that a look's median is taken over: seven in all. With five the first second was further off."""
REACH = _NEIGHBOURS + 1
"""Detection intervals within which looks matter to a frame: the next look, and that look's neighbours."""
BRIDGED = 3
"""Frames in a row that a face may go unseen and still count as there: blinks of the detector, not a covered face."""
_MARGIN = 0.3
"""What is kept of a frame around the crop, as a share of it: the final points are known only later."""


@dataclass(frozen=True, slots=True)
class Followed:
    """The face in one frame: brows and nose as float64 (3, 2) in px of the frame, or None where there is no face.

    ``region`` is all that has to be kept of the frame to cut the crop from it: uint8 (h, w, 3), its top-left pixel at
    ``origin`` (x, y). It is empty where there is no face.
    """

    row: int
    landmarks: np.ndarray | None
    region: np.ndarray
    origin: tuple[int, int]


def missing(row: int) -> Followed:
    """A frame without a face."""
    return Followed(row, None, np.zeros((0, 0, 3), np.uint8), (0, 0))


def crop_region(row: int, frame: np.ndarray, landmarks: np.ndarray, template: Template) -> Followed:
    """A frame with a face: its region is copied, so that the frame can be let go."""
    wide = crop_box(affine(landmarks, template), template, part=(-_MARGIN, -_MARGIN, 1 + _MARGIN, 1 + _MARGIN))
    x0, y0, x1, y1 = _within(wide, frame.shape)
    return Followed(row, np.asarray(landmarks, np.float64), frame[y0:y1, x0:x1].copy(), (x0, y0))


def nearest(faces: np.ndarray, landmarks: np.ndarray, *, distance: float, ratio: float) -> np.ndarray | None:
    """The one of ``faces`` (N, 3, 2) closest to ``landmarks``: at most ``distance`` sizes off and ``ratio`` larger or smaller.

    The size of a face is the root of the summed squared distances of its three points from their mean: 0.85 times that of the
    brows from each other.
    """
    size = _size(landmarks)
    apart = [(float(np.linalg.norm(face.mean(0) - landmarks.mean(0))), face) for face in faces]
    alike = [pair for pair in apart if pair[0] <= distance * size and 1 / ratio <= _size(pair[1]) / size <= ratio]
    return min(alike, key=lambda pair: pair[0])[1].astype(np.float64) if alike else None


def interpolated(landmarks: np.ndarray, other: np.ndarray, count: int) -> list[np.ndarray]:
    """The points of ``count`` frames between two sightings."""
    return [landmarks + (other - landmarks) * number / (count + 1) for number in range(1, count + 1)]


def _size(landmarks: np.ndarray) -> float:
    return float(np.linalg.norm(landmarks - landmarks.mean(0)))


def _within(box: tuple[int, int, int, int], frame_size: tuple[int, ...]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    return max(x0, 0), max(y0, 0), min(x1, frame_size[1]), min(y1, frame_size[0])


@dataclass(frozen=True, slots=True)
class _Kept:
    """A frame on its way out. ``pose`` (3, 3) takes the px of the frame in which the face was found to those of this one."""

    pose: np.ndarray
    rough: Followed
    frame_size: tuple[int, ...]


class Track:
    """Begins with a look at ``row``; grows by ``extend`` and ``look``; ``settled`` and ``rest`` let its frames go, in order."""

    def __init__(self, row: int, frame: np.ndarray, landmarks: np.ndarray, template: Template, *, interval: int) -> None:
        self._template = template
        self._calm = _NEIGHBOURS * interval
        self._reach = REACH * interval
        self.misses = 0
        """Looks in a row that have not found the face."""
        self.confirmed = False
        """Whether it was found more than once."""
        self.landmarks = landmarks
        """Where the face is in the newest frame: the latest look, moved along. Not smoothed."""
        self._pose = np.eye(3)
        self._looks = {row: landmarks}  # points in px of the first frame
        self._kept = deque([_Kept(self._pose, crop_region(row, frame, landmarks, template), frame.shape)])

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
            self._kept.appendleft(_Kept(pose, crop_region(row, frame, landmarks, self._template), frame.shape))
        return 0

    def bridge(self, gap: list[tuple[int, np.ndarray]], landmarks: np.ndarray) -> bool:
        """Take in the frames of a gap between a sighting at ``landmarks`` and this track's first frame, points interpolated.

        False when the gap is too long or the face not the same.
        """
        first = self._kept[0]
        assert first.rough.landmarks is not None
        if len(gap) > BRIDGED or nearest(first.rough.landmarks[None], landmarks, distance=1.0, ratio=1.4) is None:
            return False
        for (row, frame), points in reversed(
            list(zip(gap, interpolated(landmarks, first.rough.landmarks, len(gap)), strict=True))
        ):
            pose = between(first.rough.landmarks, points) @ first.pose
            self._kept.appendleft(_Kept(pose, crop_region(row, frame, points, self._template), frame.shape))
        return True

    def extend(self, before: np.ndarray, row: int, frame: np.ndarray) -> bool:
        """Follow the face from the newest frame into the next; False when it cannot be."""
        step = movement(before, frame, self.landmarks)
        if step is None:
            return False
        self._pose, self.landmarks = step @ self._pose, move(step, self.landmarks)
        self._kept.append(_Kept(self._pose, crop_region(row, frame, self.landmarks, self._template), frame.shape))
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

    def unsmoothed(self) -> Iterator[Followed]:
        """All frames with the points as they came, for a detector that looks at every frame."""
        while self._kept:
            yield self._kept.popleft().rough

    def settled(self) -> Iterator[Followed]:
        """The frames that no later look can change."""
        newest = self._kept[-1].rough.row
        while self._kept[0].rough.row + self._reach <= newest:
            yield self._smoothed(self._kept.popleft())

    def rest(self) -> Iterator[Followed]:
        """All other frames: the track ends here. They show no face when it was a false alarm."""
        false_alarm = self.given_up and not self.confirmed
        while self._kept:
            kept = self._kept.popleft()
            yield missing(kept.rough.row) if false_alarm else self._smoothed(kept)

    def _smoothed(self, kept: _Kept) -> Followed:
        row, rough = kept.rough.row, kept.rough
        for old in [look for look in self._looks if look < row - self._reach][: len(self._looks) - 1]:
            del self._looks[old]  # one stays, however old: the face may have been turned away for long
        rows = np.array(list(self._looks))
        carried = np.array([move(kept.pose, points) for points in self._looks.values()])
        calm = [np.median(carried[np.abs(rows - look) <= self._calm], axis=0) for look in rows]
        after = int(np.searchsorted(rows, row))
        before = max(after - 1, 0)
        after = min(after, len(rows) - 1)
        share = (row - rows[before]) / (rows[after] - rows[before]) if before != after else 0.0
        landmarks = (1 - share) * calm[before] + share * calm[after]
        x0, y0, x1, y1 = _within(crop_box(affine(landmarks, self._template), self._template), kept.frame_size)
        (left, top), (height, width) = rough.origin, rough.region.shape[:2]
        if x0 < left or y0 < top or x1 > left + width or y1 > top + height:
            return rough  # what would have to be cut is gone; looks that agree as closely as ``look`` asks do not come here
        return Followed(row, landmarks, rough.region, rough.origin)
