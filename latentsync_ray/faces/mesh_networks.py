"""The two networks of the ``mesh`` detector in OpenCV's reader of TFLite: what each wants to see, and what it gives.

They come in two makes: those of MediaPipe's first releases, and those of the bundle ``face_landmarker.task`` (face mesh V2).
Both number the 468 points of a face alike. Sources: MediaPipe's ``face_detector_graph.cc`` and
``face_landmarks_detector_graph.cc``.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from latentsync_ray.disk import scratch
from latentsync_ray.errors import ModelError

__all__ = ["POINTS", "Finder", "Mesh"]

POINTS = 468
"""Of a face; what V2 gives besides are the irises."""


class _Kind(NamedTuple):
    """How a network is talked to."""

    side: int
    """Of the pictures it sees, px."""
    outputs: tuple[str, str]
    sure: float = 0.5
    """Least that the mesh has to say of a face that nobody knew."""
    grids: tuple[tuple[int, int], ...] = ()
    """Cells along a side of what it searches, and how many answers each gives."""


_MESH = _Kind(192, ("conv2d_20", "conv2d_30"))
# Upside-down faces scored up to 0.99, upright ones more.
_MESH_V2 = _Kind(256, ("Identity", "Identity_1"), sure=0.999)
_FULL_RANGE = _Kind(192, ("reshaped_regressor_face_4", "reshaped_classifier_face_4"), grids=((48, 1),))
_SHORT_RANGE = _Kind(128, ("regressors", "classificators"), grids=((16, 2), (8, 6)))


class Mesh:
    """The face mesh: 468 points of a face that fills two thirds of the picture, upright."""

    def __init__(self, content: bytes, *, bundled: bool) -> None:
        self._kind = _MESH_V2 if bundled else _MESH
        self._network = _read(content)
        self.side, self.sure = self._kind.side, self._kind.sure

    def __call__(self, picture: np.ndarray) -> tuple[np.ndarray, float]:
        """Points in a uint8 (side, side, 3) picture, float64 (468, 3), px and depth; and how sure it shows a face, 0 to 1."""
        points, flag = _forward(self._network, self._kind, cv2.dnn.blobFromImage(picture, 1 / 255))
        return points.reshape(-1, 3)[:POINTS].astype(np.float64), float(_share(flag).ravel()[0])


class Finder:
    """BlazeFace: where faces are that stand upright to within about 40 degrees."""

    def __init__(self, content: bytes, *, bundled: bool) -> None:
        self._kind = _SHORT_RANGE if bundled else _FULL_RANGE
        self._network = _read(content)
        self.side = self._kind.side
        self._cells = np.concatenate([_cells(count, answers) for count, answers in self._kind.grids])

    def __call__(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What it makes of all cells of a uint8 (side, side, 3) picture: float (N, 8, 2) in px, and scores (N,), 0 to 1.

        The eight are centre, size, eyes, nose, mouth, ears.
        """
        boxes, scores = _forward(self._network, self._kind, cv2.dnn.blobFromImage(picture, 1 / 127.5) - 1)
        places = boxes.reshape(-1, 8, 2).copy()
        places[:, [0, 2, 3, 4, 5, 6, 7]] += self._cells * self.side
        return places, _share(scores).ravel()


def _read(content: bytes) -> cv2.dnn.Net:
    with scratch() as folder:
        path = folder / "network.tflite"
        path.write_bytes(content)
        try:
            # OpenCV 5's new engine gives only one of a network's outputs, and what reads from memory takes no other.
            return cv2.dnn.readNetFromTFLite(str(path), cv2.dnn.ENGINE_CLASSIC)
        except cv2.error as error:
            raise ModelError(f"OpenCV cannot read a model of the face mesh: {_reason(error)}") from error


def _forward(network: cv2.dnn.Net, kind: _Kind, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    network.setInput(values)
    try:
        first, second = network.forward(list(kind.outputs))
    except cv2.error as error:
        missing = " or ".join(kind.outputs)
        raise ModelError(
            f"a file of the face mesh holds another network than its name says (no {missing}): {_reason(error)}"
        ) from error
    return first, second


def _reason(error: cv2.error) -> str:
    return str(error).strip().splitlines()[-1]


def _cells(count: int, answers: int) -> np.ndarray:
    """Centres of ``count`` x ``count`` cells, each ``answers`` times, as shares of the side: (N, 1, 2)."""
    at = (np.arange(count) + 0.5) / count
    return np.repeat(np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 1, 2), answers, axis=0)


def _share(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
