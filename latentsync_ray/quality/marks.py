"""How one pasted face compares with what was filmed there: a few numbers, and a picture of some bytes for what moves."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from latentsync_ray.quality.colour import difference, lab_of
from latentsync_ray.quality.views import View, Views, shares_within
from latentsync_ray.template import Shares, Template

__all__ = ["GRID", "TRAITS", "Marks", "cells_of"]

TRAITS = ("seam", "detail", "source_detail", "identity", "skin_shift")
"""Columns of the numbers."""
GRID = (8, 12)
"""Rows and columns of the pictures, over what the model draws."""
_SECTORS = 24
"""Pieces of the border, counted from the left over the top. A step is looked for in each."""
_CHIN = slice(14, 22)
"""Those that are left out: below, an open mouth moves the jaw's edge, which is no step of the paste."""
_STEPPED = 200 / 3
"""Percentile of the pieces: a third of the border steps at least so much."""
_FEWEST = 2
"""px of a piece on either side, to say anything of it."""
_INSIDE, _OUTSIDE = 0.9, 0.02
"""Weight of the new picture from which on it is all there is, and below which there is none."""
_PATTERN = 13
"""px of a face of 64 over which a pattern's own brightness is taken away."""
_FAINT = 2.0
"""Grey levels squared: patterns fainter than this are alike."""
_GRAIN = 0.01
"""The same for detail."""


@cache
def cells_of(template: Template) -> np.ndarray:
    """How much each cell of the pictures shows what the model draws, and of that the lips: float32 (2, 8, 12)."""
    left, top, right, bottom = (round(edge * template.side) for edge in template.drawn)
    drawn = cv2.resize(1 - template.keep[top:bottom, left:right], GRID[::-1], interpolation=cv2.INTER_AREA)
    (left, top, right, bottom), lips = template.drawn, _lips_of(template)
    down, across = (
        first + (np.arange(n) + 0.5) / n * (last - first)
        for n, first, last in zip(GRID, (top, left), (bottom, right), strict=True)
    )
    inside = np.outer((down > lips[1]) & (down < lips[3]), (across > lips[0]) & (across < lips[2]))
    return np.stack([drawn, drawn * inside]).astype(np.float32)


def _lips_of(template: Template) -> Shares:
    """Where the lips are: the upper part of what the template calls mouth and chin, with the upper lip."""
    left, top, right, bottom = template.mouth
    width, height = right - left, bottom - top
    return left + 0.09 * width, top - 0.27 * height, right - 0.09 * width, top + 0.56 * height


class Marks:
    """The ``count`` faces of a segment that are pasted."""

    def __init__(self, template: Template, count: int) -> None:
        self.views = Views(template)
        self.grids = np.zeros((count, 2, *GRID), np.uint8)
        """Brightness before and after, coarsely."""
        self._numbers, self._colours = np.full((count, len(TRAITS) - 1), np.nan), np.full((count, 2, 3), np.nan)
        box, lips = self.views.box, _lips_of(template)
        self._lips = shares_within(lips, box, 2)
        self._drawn = shares_within(template.drawn, box, 2)
        x0, y0, x1, y1 = box
        self._skin = np.ones((y1 - y0, x1 - x0), np.bool_)
        self._skin[shares_within(lips, box)] = False
        rows, columns = np.mgrid[: y1 - y0, : x1 - x0] - np.array([y1 - y0 - 1, x1 - x0 - 1])[:, None, None] / 2
        self._sectors = ((np.arctan2(rows, columns) / (2 * np.pi) + 0.5) * _SECTORS).astype(int) % _SECTORS

    def note(self, place: int, before: View, after: View, weight: np.ndarray) -> None:
        """Note a face: views of the frame as it was and as it is now, and how much of the new picture each place has.

        ``weight`` is float32 (COARSE, COARSE), 0 to 1, of the whole face.
        """
        x0, y0, x1, y1 = self.views.box
        weight = weight[y0:y1, x0:x1]
        skin = (weight > _INSIDE) & self._skin
        detail = self._detail(after), self._detail(before)
        self._numbers[place] = self._seam(before, after, weight), *detail, _likeness(before, after, skin)
        self._colours[place] = _colours(before, after, skin)
        for grid, view in zip(self.grids[place], (before, after), strict=True):
            grid[:] = np.rint(cv2.resize(view.luma[self._drawn], GRID[::-1], interpolation=cv2.INTER_AREA))

    def traits(self, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """float32 (P, 5), the columns of TRAITS; NaN where a frame does not tell. ``matrix`` and ``offset`` make YUV of RGB."""
        lab = lab_of((self._colours - offset) @ np.linalg.inv(matrix.astype(np.float64)).T)
        return np.column_stack([self._numbers, difference(lab[:, 0], lab[:, 1])]).astype(np.float32)

    def _seam(self, before: View, after: View, weight: np.ndarray) -> float:
        """By how much the step across the border exceeds the filmed one, in grey levels: at a third of the border, at least."""
        within, painted = (weight > _INSIDE).astype(np.uint8), (weight > _OUTSIDE).astype(np.uint8)
        nearby = np.ones((3, 3), np.uint8)
        inner, outer = (within - cv2.erode(within, nearby)) > 0, (cv2.dilate(painted, nearby) - painted) > 0
        filmed, count = self._by_sector(before.yuv[..., 0], inner)
        drawn, _ = self._by_sector(after.yuv[..., 0], inner)
        around, others = self._by_sector(before.yuv[..., 0], outer)
        known = (count >= _FEWEST) & (others >= _FEWEST)
        known[_CHIN] = False
        if not known.any():
            return float("nan")
        excess = np.abs(drawn - around)[known] - np.abs(filmed - around)[known]
        return max(float(np.percentile(excess, _STEPPED)), 0.0)

    def _by_sector(self, picture: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the picture in each piece of the border, and its number of px."""
        sectors = self._sectors[where]
        count = np.bincount(sectors, minlength=_SECTORS)
        return np.bincount(sectors, picture[where], _SECTORS) / np.maximum(count, 1), count

    def _detail(self, view: View) -> float:
        """Energy of the detail of the lips, of 2 to 4 px of a face of 128."""
        lips = view.luma[self._lips]
        fine = cv2.GaussianBlur(lips, (0, 0), 0.7) - cv2.GaussianBlur(lips, (0, 0), 1.5)
        return float(np.square(fine).mean()) + _GRAIN


def _likeness(before: View, after: View, skin: np.ndarray) -> float:
    """How alike the patterns of the skin are: 1 the same, 0 unrelated, both in shape and in strength."""
    if not skin.any():
        return float("nan")
    first, second = ((each - cv2.blur(each, (_PATTERN, _PATTERN)))[skin] for each in (before.yuv[..., 0], after.yuv[..., 0]))
    return float((2 * np.mean(first * second) + _FAINT) / (np.mean(first * first) + np.mean(second * second) + _FAINT))


def _colours(before: View, after: View, skin: np.ndarray) -> np.ndarray:
    """YUV of the skin before, and with what most of its places gained: float (2, 3)."""
    if not skin.any():
        return np.full((2, 3), np.nan)
    first, second = before.yuv[skin], after.yuv[skin]
    mean, middle = first.mean(0), len(first) // 2
    gained = np.partition(second - first, middle, axis=0)[middle]  # in most places: half of the time of ``np.median``
    return np.array([mean, mean + gained])
