"""The official detector: InsightFace's 106 landmarks, for parity with LatentSync's own alignment.

Needs the extra ``latentsync-ray[insightface]``, InsightFace itself (installed by a command of its own, see ``pyproject.toml``)
and, on first use, a download of the model pack ``buffalo_l`` into InsightFace's own folder. The licence of InsightFace's models
allows non-commercial research only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentsync_ray.errors import ConfigError, WeightsNotFound
from latentsync_ray.extras import install_command
from latentsync_ray.faces import Face

__all__ = ["INSTALL", "InsightFaceDetector", "landmarks_of_106"]

_GROUPS = ([43, 48, 49, 50, 51], [101, 102, 103, 104, 105], [74, 77, 83, 86])
"""Image-left brow, image-right brow and nose in the 2d106 layout."""
INSTALL = f"{install_command('insightface')} && pip install --no-deps 'insightface>=2,<3'"
"""In two steps: with what InsightFace declares, pip would add a second build of OpenCV over ours."""
_LEAST_SCORE = 0.5
_LEAST_WIDTH, _LEAST_HEIGHT = 50, 80
"""Smaller boxes (px) are ignored, as in the official code."""
_SHAPES = (0.2, 1.5)
"""So are boxes with another ratio of width to height."""


def landmarks_of_106(landmarks: np.ndarray) -> np.ndarray:
    """Brow, brow and nose, float64 (3, 2), from InsightFace's (106, 2) landmarks.

    The landmarks are rounded to whole pixels, as in the official code, and their means are not: ``OfficialBias`` does that.
    """
    return np.stack([np.round(landmarks).astype(np.float64)[group].mean(0) for group in _GROUPS])


class InsightFaceDetector:
    """Finds faces with ``buffalo_l`` at 512 x 512, as the official code does, in every frame.

    The model licence is non-commercial. Runs on the CPU, since a GPU that nobody reserved would be shared by every task of its
    node. Raises ConfigError when InsightFace is not installed, WeightsNotFound when its models are not there and cannot be
    downloaded.
    """

    interval = 1

    @staticmethod
    def check() -> None:
        """Raise ConfigError when InsightFace is not installed; its models are downloaded with the first detector."""
        _import()

    def __init__(self, app: Any = None) -> None:
        """``app`` is a prepared ``FaceAnalysis``; by default one is made, with its models downloaded if need be."""
        self._app = _face_analysis() if app is None else app

    def __call__(self, frame: np.ndarray, known: Sequence[Face] = (), *, search: bool = True) -> list[Face]:
        """See ``Detector``; the whole frame is searched, always."""
        usable = []
        for face in self._app.get(np.ascontiguousarray(frame[..., ::-1])):  # InsightFace takes BGR
            width, height = face.bbox[2] - face.bbox[0], face.bbox[3] - face.bbox[1]
            if width < _LEAST_WIDTH or height < _LEAST_HEIGHT or face.det_score < _LEAST_SCORE:
                continue
            if _SHAPES[0] <= width / height <= _SHAPES[1]:
                x0, y0, x1, y1 = (float(edge) for edge in face.bbox)
                landmarks = landmarks_of_106(face.landmark_2d_106)
                usable.append(Face(landmarks=landmarks, box=(x0, y0, x1, y1), presence=float(face.det_score)))
        return usable


def _import() -> Any:
    try:
        from insightface.app import FaceAnalysis  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f'the detector "insightface" needs packages that are not installed ({error.name}): '
            f"{INSTALL}; its models are licensed for non-commercial research only"
        ) from error
    return FaceAnalysis


def _face_analysis() -> Any:
    kind = _import()
    try:
        app = kind(
            allowed_modules=["detection", "landmark_2d_106"],
            name="buffalo_l",
            providers=["CPUExecutionProvider"],
        )
    except OSError as error:  # those of requests are
        raise WeightsNotFound(
            f"InsightFace's models buffalo_l cannot be downloaded ({type(error).__name__}): unpack buffalo_l.zip of its "
            "releases on GitHub into ~/.insightface/models/buffalo_l on this machine"
        ) from error
    app.prepare(ctx_id=-1, det_size=(512, 512))
    return app
