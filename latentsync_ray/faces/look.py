"""A frame of a video as whoever follows faces wants it: whole, a part, or so coarse that only cuts show."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

__all__ = ["Look", "Still"]


class Look(Protocol):
    """Parts are for less than the whole where the frame is still as it was decoded."""

    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3), read-only."""
        ...

    def rgb_within(self, box: tuple[int, int, int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """What lies around ``box`` (left, top, right, bottom, px), or more; and its top left corner in the frame, x and y."""
        ...

    def grey(self) -> np.ndarray:
        """How light some of its pixels are, evenly spread: uint8 (h, w)."""
        ...


class Still:
    """A frame that is a picture already."""

    def __init__(self, picture: np.ndarray) -> None:
        self._picture = picture

    def rgb(self) -> np.ndarray:
        """See ``Look``."""
        return self._picture

    def rgb_within(self, box: tuple[int, int, int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """See ``Look``."""
        return self._picture, (0, 0)

    def grey(self) -> np.ndarray:
        """See ``Look``."""
        step = max(1, min(self._picture.shape[:2]) // 135)
        return cv2.cvtColor(np.ascontiguousarray(self._picture[::step, ::step]), cv2.COLOR_RGB2GRAY)
