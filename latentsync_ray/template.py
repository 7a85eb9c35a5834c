"""How a model wants a face: plain data, given by the model's family and used by whoever cuts faces out or puts them back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Shares", "Template"]

Shares = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of a picture, as shares of its width and height."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Template:
    """Where a face belongs in the square picture that a model sees, and what of it the model draws anew."""

    side: int
    """R: width and height of that picture in px."""
    size: tuple[int, int]
    """Width and height in px of the upright crop that is squeezed into it; the same as ``side`` squeezes nothing."""
    points: np.ndarray
    """Where the centres of image-left brow, image-right brow and nose belong in the crop: float64 (3, 2), px."""
    keep: np.ndarray
    """float32 (R, R), read-only: 1 where the picture is kept, 0 where the model draws; between along the outline."""
    drawn: Shares
    """The part of the picture in which the model draws."""
    mouth: Shares
    """Where mouth and chin are in the picture, for measuring their motion."""

    def __post_init__(self) -> None:
        for array in (self.points, self.keep):  # one template serves a whole process
            array.setflags(write=False)
