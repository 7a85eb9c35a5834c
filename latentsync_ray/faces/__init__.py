"""Faces: find, follow, choose, cut out, put back. Knows pictures and geometry; knows nothing about files, codecs or the model.

    detectors (mesh, embedded, insightface) --> link or follow --> Track --> steady, visible --> choose --> align, blend

A ``Face`` is what a detector sees in one picture, a ``Track`` (``tracks.py``) one face through one shot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from latentsync_ray.faces.align import box_around

__all__ = ["Box", "Detector", "Face", "size_of"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in px of the frame."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Face:
    """A face in a picture. Only ``landmarks`` have to be known; each of the others makes something better.

    ``outline`` and ``texture`` are used where they are known of a face in all frames, ``texture`` always of as many places.
    """

    landmarks: np.ndarray
    """Image-left brow centre, image-right brow centre, nose centre: float (3, 2), (x, y) in px, with fractions. Left and right
    are those of the upright face: of one that stands on its head, the other way round in the picture."""
    box: Box | None = None
    presence: float = 1.0
    """How sure it is a face, 0 to 1."""
    turn: tuple[float, float, float] | None = None
    """Yaw, pitch and roll in degrees, 0 for a face that looks into the camera, of either sign. Without it, faces that look away
    are dubbed."""
    mouth: float | None = None
    """How far the lips are apart, in brow distances. Without it, nobody is seen to speak, and the largest face is taken."""
    outline: np.ndarray | None = None
    """The visible edge of the face, float (N, 2), px. Without it, the patch does not end where the face does."""
    texture: np.ndarray | None = None
    """Colours at places of the skin that are always the same ones, uint8 (V, 3) RGB: those of the lower face first, then those
    of the upper one. Shows when something covers the mouth; without it, nothing does."""
    lower: int = 0
    """How many of them are the lower face's."""

    @property
    def bounds(self) -> Box:
        """``box``, or one around the landmarks."""
        return self.box or box_around(self.landmarks)

    def moved(self, x: float, y: float) -> Face:
        """The same face in a picture whose origin is elsewhere."""
        box = self.box and (self.box[0] + x, self.box[1] + y, self.box[2] + x, self.box[3] + y)
        outline = None if self.outline is None else self.outline + np.array([x, y], self.outline.dtype)
        return replace(self, landmarks=np.add(self.landmarks, (x, y)), box=box, outline=outline)


class Detector(Protocol):
    """Finds faces in one picture. Made without arguments, once per process; keeps nothing from call to call.

    ``interval`` is the number of frames from one look to the next. With 1 it looks at every frame, and all faces are followed.
    With more, only the largest is, optically and by its landmarks; whatever else a ``Face`` holds is not used then.

    A class may have a static method ``check()`` that raises ConfigError for what is missing on this machine: drivers call it
    before work starts. Another, ``version() -> str``, may tell what changes when the same picture may give other points. An
    attribute ``reach`` says how far around known faces it looks without a search, in sizes of their boxes: what is further off
    it may not be shown then. Without it, it sees whole frames.
    """

    interval: int

    def __call__(self, frame: np.ndarray, known: Sequence[Face] = (), *, search: bool = True) -> list[Face]:
        """The faces of a uint8 (H, W, 3) RGB frame, or part of one, in any order and in its own px. It must not be written to.

        ``known`` are those of a moment ago. With ``search`` false they are all that matter: a detector may look around them
        only.
        """
        ...


def size_of(landmarks: np.ndarray) -> float:
    """The size of a face: root of the summed squared distances of its points from their mean, 0.85 brow distances."""
    return float(np.linalg.norm(landmarks - landmarks.mean(0)))
