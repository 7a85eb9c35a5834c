"""One face through one shot, as plain arrays: what is known of a video's faces once it has been looked through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from latentsync_ray.faces import Face

__all__ = ["ANGLES", "Track", "Tracks", "outline_at", "polar"]

ANGLES = 24
"""Directions in which the edge of a face is noted."""
_LEVELS = 64
"""Steps of a radius per brow distance; one byte holds four of these."""
_FIELDS = ("rows", "landmarks", "box", "presence", "turn", "mouth", "outline", "texture", "covered")


@dataclass(slots=True, eq=False, kw_only=True)
class Track:
    """One face in n frames of a shot, perhaps with gaps. What a detector does not tell is NaN, or has no columns."""

    id: int
    """Counted through the video, from 0, in the order in which faces appear."""
    shot: int
    rows: np.ndarray
    """Frames of the source in display order: int32 (n,), rising."""
    landmarks: np.ndarray
    """float32 (n, 3, 2), px of the frame with square pixels."""
    box: np.ndarray
    """float32 (n, 4)."""
    presence: np.ndarray
    """float32 (n,); 0 where the face was not seen and its place is interpolated."""
    turn: np.ndarray
    """Yaw, pitch, roll: float32 (n, 3), degrees."""
    mouth: np.ndarray
    """float32 (n,), brow distances."""
    outline: np.ndarray
    """uint8 (n, ANGLES or 0); see ``polar``."""
    texture: np.ndarray
    """uint8 (n, V, 3); only while tracks are made."""
    covered: np.ndarray
    """bool (n,): something is before the mouth."""
    lower: int = 0
    thumbnail: bytes = b""
    """A JPEG of the face at its best."""

    @classmethod
    def of(cls, number: int, shot: int, rows: Sequence[int], faces: Sequence[Face]) -> Track:
        """The track of one face, seen in ``rows``."""
        unknown = (np.nan, np.nan, np.nan)
        textures = [face.texture for face in faces]
        known = all(texture is not None for texture in textures)
        outlines = [face.outline for face in faces]
        drawn = all(outline is not None for outline in outlines)
        return cls(
            id=number,
            shot=shot,
            rows=np.array(rows, np.int32),
            landmarks=np.array([face.landmarks for face in faces], np.float32),
            box=np.array([face.bounds for face in faces], np.float32),
            presence=np.array([face.presence for face in faces], np.float32),
            turn=np.array([face.turn or unknown for face in faces], np.float32),
            mouth=np.array([np.nan if face.mouth is None else face.mouth for face in faces], np.float32),
            outline=np.array([polar(face.outline, face.landmarks) for face in faces], np.uint8)  # type: ignore[arg-type]
            if drawn
            else np.zeros((len(faces), 0), np.uint8),
            texture=np.array(textures, np.uint8) if known else np.zeros((len(faces), 0, 3), np.uint8),
            covered=np.zeros(len(faces), np.bool_),
            lower=faces[0].lower if known else 0,
        )

    @classmethod
    def joined(cls, pieces: Sequence[Track]) -> Track:
        """One track of pieces that follow each other."""
        first = pieces[0]
        arrays = {}
        for name in _FIELDS:
            parts = [getattr(piece, name) for piece in pieces]
            if any(part.shape[1:] != parts[0].shape[1:] for part in parts):  # not known everywhere
                parts = [part[:, :0] for part in parts]
            arrays[name] = np.concatenate(parts)
        return cls(id=first.id, shot=first.shot, lower=first.lower, thumbnail=first.thumbnail, **arrays)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> Track:
        """The same track at some of its frames, in this order."""
        arrays = {name: getattr(self, name)[positions] for name in _FIELDS}
        return Track(id=self.id, shot=self.shot, lower=self.lower, thumbnail=self.thumbnail, **arrays)

    @property
    def areas(self) -> np.ndarray:
        """float32 (n,), px: of the boxes."""
        x0, y0, x1, y1 = self.box.T
        return (x1 - x0) * (y1 - y0)


@dataclass(slots=True, eq=False)
class Tracks:
    """The faces of a video."""

    tracks: list[Track]
    shots: np.ndarray
    """First row of each shot, int32; the first one is 0."""
    stop: int
    """How many rows were looked at."""
    corrupt: list[int] = field(default_factory=list)
    """Rows that the file has damaged."""

    def shot(self, number: int) -> tuple[int, int]:
        """First row of a shot, and the one after its last."""
        last = self.shots[number + 1] if number + 1 < len(self.shots) else self.stop
        return int(self.shots[number]), int(last)


def polar(outline: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The edge of a face as distances from the mean of its landmarks in ANGLES directions, beginning along the brows: uint8.

    64 levels per brow distance. ``outline`` (N, 2) and ``landmarks`` (3, 2) in px; its points may come in any order.
    """
    centre, across = landmarks.mean(0), landmarks[1] - landmarks[0]
    brows = complex(*across)
    places = (outline - centre) @ np.array([1, 1j]) / brows
    order = np.argsort(np.angle(places))
    angles, radii = np.angle(places)[order], np.abs(places)[order]
    at = np.linspace(-np.pi, np.pi, ANGLES, endpoint=False)
    radius = np.interp(at, angles, radii, period=2 * np.pi)
    return np.clip(np.rint(radius * _LEVELS), 0, 255).astype(np.uint8)


def outline_at(radii: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The polygon (n, ANGLES, 2), px, of ``polar``'s radii (n, ANGLES) around the landmarks (n, 3, 2)."""
    centre, across = landmarks.mean(1), landmarks[:, 1] - landmarks[:, 0]
    brows = across @ np.array([1, 1j])
    at = np.exp(1j * np.linspace(-np.pi, np.pi, ANGLES, endpoint=False))
    places = radii.astype(np.float64) / _LEVELS * at * brows[:, None]
    return centre[:, None] + np.stack([places.real, places.imag], axis=-1)
