"""A line of text burnt into frames: white on a dark plate, in a corner. Works in the frames' own YUV planes."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from latentsync_ray.lettering import draw_text, text_width
from latentsync_ray.marking import Label

__all__ = ["BurntLabel"]

_PLATE = 0.55
"""How dark the plate is, 0 to 1."""
_FINER = 4
"""Times larger than it is shown, the text is drawn: its edges become smooth."""


class BurntLabel:
    """``BurntLabel(label, (width, height), matrix, offset)(y, u, v)`` draws into 8-bit YUV 4:2:0 planes, in place.

    ``matrix`` (3, 3) and ``offset`` (3,) turn RGB 0..255 into the clip's YUV. Width and height are even. Text that Pillow's own
    font has looks the same on every machine; other scripts take the machine's fonts.
    """

    def __init__(self, label: Label, size: tuple[int, int], matrix: np.ndarray, offset: np.ndarray) -> None:
        width, height = size
        letters = label.size * min(size)
        widest = width - 4 * 0.5 * letters  # margins, and the plate's own
        letters = min(letters, letters * widest / max(1.0, text_width(label.text, max(1, round(letters * _FINER))) / _FINER))
        coverage = _text(label.text, max(6, round(letters)))
        rows, columns = (min(side, most) for side, most in zip(coverage.shape, (height, width), strict=True))
        coverage = coverage[:rows, :columns]
        margin = round(0.5 * letters)
        left = margin if label.corner.endswith("left") else width - margin - columns
        top = margin if label.corner.startswith("top") else height - margin - rows
        left, top = (min(max(0, at - at % 2), room) for at, room in ((left, width - columns), (top, height - rows)))
        self._luma = slice(top, top + rows), slice(left, left + columns)
        self._chroma = slice(top // 2, (top + rows) // 2), slice(left // 2, (left + columns) // 2)
        white, black = (float(matrix[0] @ np.full(3, level) + offset[0]) for level in (255, 0))
        opaque = np.maximum(coverage, _PLATE)
        self._weight = 1 - opaque
        self._add = coverage * white + (opaque - coverage) * black
        self._grey = cv2.resize(opaque, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)

    def __call__(self, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        y[self._luma] = np.rint(self._weight * y[self._luma] + self._add)
        for plane in (u, v):
            plane[self._chroma] = np.rint((1 - self._grey) * plane[self._chroma] + 128 * self._grey)


def _text(text: str, size: int) -> np.ndarray:
    """How much of each pixel the letters cover, float32 (h, w) with even sides and room around."""
    fine = size * _FINER
    width, height = text_width(text, fine) + fine, 1.6 * fine
    sides = tuple(2 * max(1, round(side / _FINER / 2)) for side in (width, height))
    picture = Image.new("L", (sides[0] * _FINER, sides[1] * _FINER))
    draw_text(ImageDraw.Draw(picture), (0.5 * fine, 0.2 * fine), text, size=fine, fill="white")
    return cv2.resize(np.asarray(picture, np.float32) / 255, sides, interpolation=cv2.INTER_AREA)
