"""What of a frame the measures look at: the face as the model sees it, but small, and only around what the model draws."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from latentsync_ray.template import Shares, Template

__all__ = ["COARSE", "View", "Views", "shares_within"]

COARSE = 64
"""Side of a face in px, where patterns and colours are compared: no grain is left of the film."""
_FINE = 2 * COARSE
"""The same where detail is: a model's face has 128 px or more."""
_MARGIN = 1 / 16
"""How much is seen around what the model draws, in sides of the face."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Part of one frame, aligned."""

    luma: np.ndarray
    """float32 (2h, 2w), 0 to 255."""
    yuv: np.ndarray
    """float32 (h, w, 3), 0 to 255."""


class Views:
    """``Views(template)(y, u, v, affine) -> View``; the same part of the face for every frame."""

    def __init__(self, template: Template) -> None:
        left, top, right, bottom = template.drawn
        around = (left - _MARGIN, top - _MARGIN, right + _MARGIN, bottom + _MARGIN)
        x0, y0, x1, y1 = (min(max(round(edge * COARSE), 0), COARSE) for edge in around)
        self.template, self.box = template, (x0, y0, x1, y1)
        """px of a face of side COARSE."""

    def __call__(self, y: np.ndarray, u: np.ndarray, v: np.ndarray, affine: np.ndarray) -> View:
        """Of 8-bit planes, y (H, W), u and v (H/2, W/2); ``affine`` (2, 3) takes frame px to px of the crop."""
        luma = self._aligned(y, affine, _FINE, 1)
        planes = [cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)]
        planes += [self._aligned(plane, affine, COARSE, 2) for plane in (u, v)]
        return View(luma.astype(np.float32), cv2.merge(planes).astype(np.float32))

    def _aligned(self, plane: np.ndarray, affine: np.ndarray, side: int, step: int) -> np.ndarray:
        """``step`` is how many px of the frame one of the plane is wide."""
        matrix = _for_side(affine, self.template.size, side)
        matrix[:, 2] += matrix[:, :2].sum(1) * (step - 1) / 2  # pixel centres are whole numbers
        matrix[:, :2] *= step
        x0, y0, x1, y1 = (edge * side // COARSE for edge in self.box)
        matrix[:, 2] -= x0, y0
        size = x1 - x0, y1 - y0
        corners = np.array([[[0, 0], [size[0], 0], [0, size[1]], size]], np.float64)
        there = cv2.transform(corners, cv2.invertAffineTransform(matrix))[0]
        many = max(1, int(np.abs(np.linalg.det(matrix[:, :2])) ** -0.5))
        left, top = (np.floor(there.min(0)).astype(int) - many).clip(0, np.array(plane.shape[::-1]) - 1).tolist()
        right, bottom = (np.ceil(there.max(0)).astype(int) + many + 1).tolist()
        part = plane[top : max(bottom, top + 1), left : max(right, left + 1)]
        if many > 1 and min(part.shape) >= many:  # sampling a large face at few points would alias
            height, width = (length // many * many for length in part.shape)
            shrunk = (width // many, height // many)
            part = cv2.resize(part[:height, :width], shrunk, interpolation=cv2.INTER_AREA)
            matrix[:, 2] += matrix[:, :2] @ (left + (many - 1) / 2, top + (many - 1) / 2)
            matrix[:, :2] *= many
        else:
            matrix[:, 2] += matrix[:, :2] @ (left, top)
        return cv2.warpAffine(part, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _for_side(affine: np.ndarray, crop: tuple[int, int], side: int) -> np.ndarray:
    """The affine for crops squeezed to a square of ``side`` px."""
    matrix = np.asarray(affine, np.float64).copy()
    matrix[:, 2] += 0.5
    matrix *= side / np.array([crop], np.float64).T
    matrix[:, 2] -= 0.5
    return matrix


def shares_within(part: Shares, box: tuple[int, int, int, int], scale: int = 1) -> tuple[slice, slice]:
    """Rows and columns that ``part`` of the face has in a view of ``box``, ``scale`` times as fine as its colours."""
    x0, y0, x1, y1 = (round(edge * COARSE) * scale for edge in part)
    left, top, right, bottom = (edge * scale for edge in box)
    return slice(max(y0, top) - top, min(y1, bottom) - top), slice(max(x0, left) - left, min(x1, right) - left)
