"""A frame of a video as whoever follows faces wants it: whole, a part, or so coarse that only cuts show."""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["Look", "Still", "sparse_step"]


def sparse_step(width: int, height: int) -> int:
    """Of a frame of that size, every how many pixels tell a cut: of 1080p every eighth, since memory is what takes the time."""
    return max(4, min(width, height) // 135)


class Look(Protocol):
    """A part costs less than the whole while the frame is still as it was decoded."""

    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3), read-only."""
        ...

    def rgb_within(self, box: tuple[int, int, int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """What lies around ``box`` (left, top, right, bottom, px), or more; and its top left corner in the frame, x and y."""
        ...

    def sparse(self) -> np.ndarray:
        """Some of its pixels, evenly spread: uint8 (h, w, 3)."""
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

    def sparse(self) -> np.ndarray:
        """See ``Look``."""
        step = sparse_step(*self._picture.shape[1::-1])
        return self._picture[::step, ::step]
