"""What the lips in aligned faces do, read by the face mesh where its files are: steadier than ``sync.lips`` on real faces.

The mesh expects a face that fills two thirds of its picture. An aligned crop has one at a known place, from the brows to the
chin, so nothing is searched for, and the forehead, which it lacks, is made up of its upper edge.
"""

from __future__ import annotations

import cv2
import numpy as np

from latentsync_ray.faces.find import mesh_place
from latentsync_ray.faces.mesh_files import MeshFiles, mesh_files, mesh_files_at
from latentsync_ray.faces.mesh_networks import Mesh
from latentsync_ray.faces.mesh_points import CORNERS, MIDDLES, MOUTH
from latentsync_ray.template import Template

__all__ = ["MeshLips"]

_BROWS = 0.32
"""Distance of the brows, as a share of the mesh's picture: a little more than it is used to, as lips are small."""
_MIDDLE = 0.54
"""Where the picture's middle is, below the brows, in distances of them."""
_PAIRS = MOUTH, CORNERS, MIDDLES
_SEEN = 0.5
"""Least presence of a face, as of the detector."""


class MeshLips:
    """``MeshLips(files, template)(faces, places) -> (F, 3)``: as ``sync.lips.read_lips``, of faces of one template."""

    def __init__(self, files: MeshFiles, template: Template) -> None:
        self._mesh = Mesh(files.mesh, bundled=files.bundled)
        left, right = template.points[:2]
        zoom = _BROWS * self._mesh.side / (right[0] - left[0])
        self._size = round(template.size[0] * zoom), round(template.size[1] * zoom)
        middle = (left + right) / 2 + (0, _MIDDLE * (right[0] - left[0]))
        self._corner = np.round(self._mesh.side / 2 - middle * zoom).astype(int)

    @classmethod
    def of_detector(cls, detector: str, template: Template) -> MeshLips | None:
        """With the files of ``recipe.detector``; None when it is no mesh, or the later and slower one."""
        place = mesh_place(detector)
        if not place and detector != "mesh":
            return None
        files = mesh_files_at(place) if place else mesh_files(bundled=False)
        return None if files.bundled else cls(files, template)

    def __call__(self, faces: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Root of the opening, width and height of the mouth in each frame, float32 (F, 3); NaN where no face is seen.

        ``faces`` are aligned crops (P, R, R, 3) uint8, and ``places`` (F,) says which of them each frame shows, -1 for none.
        """
        read = np.full((len(places), 3), np.nan, np.float32)
        for frame, place in enumerate(places.tolist()):
            if place >= 0:
                points, presence = self._mesh(self._placed(faces[place]))
                if presence >= _SEEN:
                    opening, width, height = (np.linalg.norm(points[a, :2] - points[b, :2]) for a, b in _PAIRS)
                    read[frame] = np.sqrt(opening / 10), width / 30, height / 30
        return read

    def _placed(self, face: np.ndarray) -> np.ndarray:
        """The picture that the mesh sees, uint8 (side, side, 3)."""
        shrinks = face.shape[0] > self._size[1]
        part = cv2.resize(face, self._size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        x, y = self._corner.tolist()
        side = self._mesh.side
        part = part[max(0, -y) :, max(0, -x) :][: side - max(0, y), : side - max(0, x)]
        below, right = side - max(0, y) - part.shape[0], side - max(0, x) - part.shape[1]
        return cv2.copyMakeBorder(part, max(0, y), below, max(0, x), right, cv2.BORDER_REPLICATE)
