"""The detector of choice: MediaPipe's BlazeFace finds faces, its face mesh gives 468 points of each, at any roll.

Both models are Apache-2.0, unlike InsightFace's. They run in OpenCV's own reader of TFLite, on one core: 2 ms a mesh, 7 ms a
search of the whole picture. That needs no further package; ai-edge-litert (22 MB) takes 2 and 5 ms. ``mesh_files`` finds their
files, ``mesh_networks`` runs them. Sources: Kartynnik et al., Real-time Facial Surface Geometry, 2019; Bazarevsky et al.,
BlazeFace, 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from latentsync_ray.faces import Face
from latentsync_ray.faces.mesh_files import MeshFiles, mesh_files
from latentsync_ray.faces.mesh_networks import Finder, Mesh
from latentsync_ray.faces.mesh_points import BROWS, LOWER, MOUTH, NOSE, UPPER

__all__ = ["MeshDetector", "MeshV2Detector"]

_FOUND, _SEEN = 0.5, 0.5
"""Least score of BlazeFace, and least presence of the mesh, for a face: those of MediaPipe."""
_OVERLAP = 0.3
"""Boxes of BlazeFace that share more are one face."""
_AROUND = 1.5
"""What the mesh sees, in sizes of the face's box."""
_TURNS = (90.0, 180.0, 270.0, 45.0, 315.0, 135.0, 225.0)
"""Rolls that are tried, in degrees, while no face is known: BlazeFace finds heads that lean by up to about 40."""
_CLOSER = 1.6
"""Parts of a frame that are searched while no face is known have sides this much smaller than its own shorter one."""
_WIDER, _LOOKS, _UPRIGHT = 2.2, 4, 15.0
"""A found face is looked for again in a square this much larger, turned until its eyes are level within so many degrees."""


class _Place(NamedTuple):
    """A square of the frame: centre and side in px, roll in degrees."""

    x: float
    y: float
    side: float
    roll: float


class MeshDetector:
    """Finds all faces of a picture, and what there is to know of each. Raises ConfigError when its files are not there."""

    interval, reach, bundled = 1, 0.75, False

    @classmethod
    def check(cls) -> None:
        """Raise ConfigError when the files are not on this machine, saying how to get them."""
        mesh_files(bundled=cls.bundled)

    @classmethod
    def version(cls) -> str:
        """Of the files: others give other points."""
        return mesh_files(bundled=cls.bundled).digest

    def __init__(self, files: MeshFiles | None = None) -> None:
        files = files or mesh_files(bundled=self.bundled)
        self._mesh = Mesh(files.mesh, bundled=files.bundled)
        self._finder = Finder(files.finder, bundled=files.bundled)

    def __call__(self, frame: np.ndarray, known: Sequence[Face] = (), *, search: bool = True) -> list[Face]:
        """See ``Detector``."""
        faces = [face for before in known if (face := self._look(frame, _around(before)))]
        if search:
            for squares in _squares(*frame.shape[1::-1], least=self._finder.side, thoroughly=not faces):
                for place in (place for square in squares for place in self._find(frame, square)):
                    if not any(_within(place, face) for face in faces) and (face := self._settle(frame, place)):
                        faces += [] if any(_same(face, other) for other in faces) else [face]
                if faces:
                    break
        return faces

    def _settle(self, frame: np.ndarray, place: _Place) -> Face | None:
        """The face at a place that a search found, whose roll may be wrong: upright, it must be found again."""
        for _ in range(_LOOKS):
            found = self._find(frame, _Place(place.x, place.y, _WIDER * place.side, place.roll))
            if not found:
                return None
            before, place = place.roll, min(found, key=lambda each: np.hypot(each.x - place.x, each.y - place.y))
            if abs(_half_turn(place.roll - before)) < _UPRIGHT:
                break
        else:
            return None
        # BlazeFace takes some that stand on their heads for upright ones; the mesh is far surer the right way up.
        looks = [
            self._closer(frame, place._replace(side=_AROUND * place.side, roll=place.roll + turn)) for turn in (0.0, 180.0)
        ]
        surest = max((face for face in looks if face), key=lambda face: face.presence, default=None)
        return surest if surest and surest.presence >= self._mesh.sure else None

    def _closer(self, frame: np.ndarray, place: _Place) -> Face | None:
        """The face in a square, looked at again where it was seen."""
        face = self._look(frame, place)
        return face and self._look(frame, _around(face))

    def _find(self, frame: np.ndarray, where: _Place) -> list[_Place]:
        """Faces in a square of the frame, surest first."""
        to_input = _into(where, self._finder.side)
        places, scores = self._finder(_sampled(frame, to_input, self._finder.side))
        found = scores > _FOUND
        back = cv2.invertAffineTransform(to_input)
        results = []
        for place in _merged(places[found], scores[found]):
            (x, y), eyes = place[0] @ back[:, :2].T + back[:, 2], (place[3] - place[2]) @ back[:, :2].T
            side = max(place[1]) * np.linalg.norm(back[:, 0])
            results.append(_Place(x, y, float(side), float(np.degrees(np.arctan2(eyes[1], eyes[0])))))
        return results

    def _look(self, frame: np.ndarray, where: _Place) -> Face | None:
        """The face in a square of the frame."""
        to_input = _into(where, self._mesh.side)
        picture = _sampled(frame, to_input, self._mesh.side)
        mesh, presence = self._mesh(picture)
        if presence < _SEEN:
            return None
        back = cv2.invertAffineTransform(to_input)
        flat = mesh[:, :2] @ back[:, :2].T + back[:, 2]
        landmarks = np.stack([flat[group].mean(0) for group in (*BROWS, NOSE)])
        upper, lower = flat[list(MOUTH)]
        (x0, y0), (x1, y1) = flat.min(0), flat.max(0)
        brows = float(np.linalg.norm(landmarks[1] - landmarks[0]))
        return Face(
            landmarks=landmarks,
            box=(float(x0), float(y0), float(x1), float(y1)),
            presence=presence,
            turn=_turn(mesh, roll=float(np.degrees(np.arctan2(*(landmarks[1] - landmarks[0])[::-1])))),
            mouth=float(np.linalg.norm(lower - upper)) / brows,
            outline=cv2.convexHull(flat.astype(np.float32))[:, 0],
            texture=_colours(picture, mesh[[*LOWER, *UPPER], :2]),
            lower=len(LOWER),
        )


class MeshV2Detector(MeshDetector):
    """The same with the networks of MediaPipe's bundle: six times as slow, and blind to faces that the frame's edge halves."""

    bundled = True


def _into(place: _Place, side: int) -> np.ndarray:
    """Frame px to px of the picture of a place, ``side`` px wide: float64 (2, 3)."""
    zoom = side / place.side
    cos, sin = zoom * np.cos(np.radians(place.roll)), zoom * np.sin(np.radians(place.roll))
    linear = np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([linear, (side - 1) / 2 - linear @ (place.x, place.y)])


def _around(face: Face) -> _Place:
    """The square in which the mesh finds a face that is about where this one was."""
    roll = np.degrees(np.arctan2(*(face.landmarks[1] - face.landmarks[0])[::-1]))
    points = face.landmarks if face.outline is None else face.outline
    upright = _into(_Place(0, 0, 1, roll), 1)[:, :2]
    turned = points @ upright.T
    low, high = turned.min(0), turned.max(0)
    x, y = upright.T @ ((low + high) / 2)
    return _Place(x, y, _AROUND * max(high - low) * (1 if face.outline is not None else 2), roll)


def _sampled(frame: np.ndarray, to_input: np.ndarray, side: int) -> np.ndarray:
    """uint8 (side, side, 3), black outside the frame; without aliasing, whatever the size."""
    zoom = np.sqrt(abs(np.linalg.det(to_input[:, :2])))
    steps = int(min(1 / zoom, 8))
    if steps > 1:  # every n-th pixel of means over n: a plain warp would skip pixels
        corners = np.array([[[-1, -1], [side, -1], [side, side], [-1, side]]], np.float64)
        box = cv2.transform(corners, cv2.invertAffineTransform(to_input))[0]
        x0, y0 = np.maximum(np.floor(box.min(0)).astype(int) - steps, 0)
        x1, y1 = np.minimum(np.ceil(box.max(0)).astype(int) + steps + 1, frame.shape[1::-1])
        if x1 - x0 >= steps and y1 - y0 >= steps:
            size = int(x1 - x0) // steps, int(y1 - y0) // steps
            region = frame[y0 : y0 + size[1] * steps, x0 : x0 + size[0] * steps]
            frame = cv2.resize(region, size, interpolation=cv2.INTER_AREA)
            to_input = to_input.copy()
            to_input[:, 2] += to_input[:, :2] @ (np.array([x0, y0]) + (steps - 1) / 2)
            to_input[:, :2] *= steps
    return cv2.warpAffine(frame, to_input, (side, side), flags=cv2.INTER_LINEAR)


def _merged(places: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """One place (8, 2) of each face: the mean of those that overlap, weighted by their scores."""
    merged, left = [], np.argsort(-scores)
    while len(left):
        first = places[left[0]]
        low = np.maximum(places[left, 0] - places[left, 1] / 2, first[0] - first[1] / 2)
        high = np.minimum(places[left, 0] + places[left, 1] / 2, first[0] + first[1] / 2)
        shared = np.clip(high - low, 0, None).prod(axis=1)
        overlap = shared / (places[left, 1].prod(axis=1) + first[1].prod() - shared)
        same = left[(overlap > _OVERLAP) | (left == left[0])]
        merged.append(np.average(places[same], axis=0, weights=scores[same]))
        left = left[~np.isin(left, same)]
    return merged


def _squares(width: int, height: int, *, least: int, thoroughly: bool) -> Iterator[list[_Place]]:
    """Where to search a frame, until something is found: all of it; closer, in parts of ``least`` px and more; then turned."""
    x, y = (width - 1) / 2, (height - 1) / 2
    yield [_Place(x, y, max(width, height), 0.0)]
    if not thoroughly:
        return
    side = min(width, height) / _CLOSER
    if side > least:
        across, down = _middles(width, side), _middles(height, side)
        yield [_Place(float(left), float(top), side, 0.0) for top in down for left in across]
    for turn in _TURNS:
        yield [_Place(x, y, max(width, height) if turn % 90 == 0 else float(np.hypot(width, height)), turn)]


def _middles(length: int, side: float) -> np.ndarray:
    """Where parts of a side are, so that they overlap by a fifth or more."""
    return np.linspace(side / 2, length - side / 2, int(np.ceil(1.25 * length / side)))


def _within(place: _Place, face: Face) -> bool:
    """Whether a place is where that face is."""
    x0, y0, x1, y1 = face.bounds
    return x0 < place.x < x1 and y0 < place.y < y1


def _half_turn(degrees: float) -> float:
    """The same turn, between -180 and 180."""
    return (degrees + 180) % 360 - 180


def _same(face: Face, other: Face) -> bool:
    size = np.linalg.norm(other.landmarks[1] - other.landmarks[0])
    return bool(np.linalg.norm(face.landmarks.mean(0) - other.landmarks.mean(0)) < size)


def _turn(mesh: np.ndarray, *, roll: float) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees, from where ears, forehead and chin are in depth."""
    left, right, top, chin = mesh[[234, 454, 10, 152]]
    across, down = right - left, chin - top
    yaw = np.degrees(np.arctan2(across[2], np.hypot(*across[:2])))
    pitch = np.degrees(np.arctan2(down[2], np.hypot(*down[:2])))
    return float(yaw), float(pitch), roll


def _colours(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Colours of a picture at places (V, 2), each the mean of a few px: uint8 (V, 3)."""
    soft = cv2.GaussianBlur(picture, (5, 5), 1.5)  # wider: four times as long
    x, y = places.astype(np.float32).T
    return cv2.remap(soft, x[None], y[None], cv2.INTER_LINEAR)[0]
