"""The detector that needs no download: scikit-image's bundled LBP cascade for frontal faces.

The cascade gives square boxes; the three points are where they lie in such a box on average. That is coarse (a few percent of
the face), so ``follow`` tracks optically between looks and takes medians over several of them. Faces rolled by 30 degrees or
more, profiles, and faces under 8 % of the frame's short side are not found.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from latentsync_ray.faces import Face
from latentsync_ray.faces.align import box_around

__all__ = ["EmbeddedDetector"]

_POINTS = np.array([[-0.2075, -0.2081], [0.2179, -0.2085], [0.0042, 0.0438]])
"""Brows and nose from the centre of the cascade's box, in box widths: means over three clips with landmarks."""
_SHORT_SIDE = 300
"""Whole frames are searched at this size: 0.1 s a frame. At 240 px one face in twenty more was missed."""
_FACE = 90
"""Around a known place the picture is scaled so that the face is about this wide: 8 ms. Coarser was noisier."""
_AGREEING = 4
"""Overlapping boxes that make a face: with 3 a space suit becomes one, with 7 faces are missed."""
_WIDER = 1.11
"""Width of the cascade's box over the geometric mean of the face's sides."""


class EmbeddedDetector:
    """Finds near-frontal faces with the LBP cascade."""

    interval = 12
    """Half a second at 25 fps. Looking every 6 or 25 frames made the crop no steadier on two clips."""

    def __init__(self) -> None:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade

        self._cascade = Cascade(lbp_frontal_face_cascade_filename())

    def __call__(self, frame: np.ndarray, known: Sequence[Face] = (), *, search: bool = True) -> list[Face]:
        """See ``Detector``. Of a known face, only what is about as large at about the same place is found."""
        if known:
            boxes = self._look_closely(frame, _box_of(known[0]))
        else:
            # What a closer look does not confirm is foliage rather than a face.
            boxes = [found for rough in self._search(frame) for found in self._look_closely(frame, rough)[:1]]
        return [Face(landmarks=np.add(box[:2], _POINTS * box[2])) for box in sorted(boxes, key=lambda box: -box[2])]

    def _search(self, frame: np.ndarray) -> list[tuple[float, float, float]]:
        scale = min(1.0, _SHORT_SIDE / min(frame.shape[:2]))
        return self._boxes(frame, scale, growth=1.15, stride=1.5, sizes=(24, int(min(frame.shape[:2]) * scale)))

    def _look_closely(self, frame: np.ndarray, box: tuple[float, float, float]) -> list[tuple[float, float, float]]:
        x, y, width = box
        # The window lies on a coarse grid: what is found depends on the picture and hardly on where it was expected.
        width = 2 ** (round(4 * np.log2(width)) / 4)
        x, y = (round(centre / width * 4) * width / 4 for centre in (x, y))
        left, top = max(0, round(x - 1.1 * width)), max(0, round(y - 1.1 * width))
        window = frame[top : max(0, round(y + 1.1 * width)), left : max(0, round(x + 1.1 * width))]
        if not window.size:
            return []
        boxes = self._boxes(window, _FACE / width, growth=1.05, stride=1, sizes=(int(0.7 * _FACE), int(1.45 * _FACE)))
        return [(left + x, top + y, width) for x, y, width in boxes]

    def _boxes(
        self, picture: np.ndarray, scale: float, *, growth: float, stride: float, sizes: tuple[int, int]
    ) -> list[tuple[float, float, float]]:
        """Centre and width of each face, largest first, in px of ``picture``."""
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=method)
        least, most = (min(size, *grey.shape) for size in sizes)
        found = self._cascade.detect_multi_scale(
            img=grey,
            scale_factor=growth,
            step_ratio=stride,
            min_size=(least, least),
            max_size=(most, most),
            min_neighbor_number=_AGREEING,
        )
        boxes = [((f["c"] + f["width"] / 2) / scale, (f["r"] + f["height"] / 2) / scale, f["width"] / scale) for f in found]
        return sorted(boxes, key=lambda box: -box[2])


def _box_of(face: Face) -> tuple[float, float, float]:
    """Centre and width of the cascade's box for a face."""
    x0, y0, x1, y1 = box_around(face.landmarks)
    width = _WIDER * float(np.sqrt((x1 - x0) * (y1 - y0)))
    return (x0 + x1) / 2, (y0 + y1) / 2 - 0.1 * width, width  # the face reaches further down than the box
