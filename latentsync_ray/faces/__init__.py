"""Faces: find, follow, cut out, put back. Knows pictures and geometry, and of the model its template; no files, no codecs."""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["Box", "Detector"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in px of the frame."""


class Detector(Protocol):
    """Finds faces in one picture. Keeps nothing from call to call: what belongs together over time is ``follow``'s affair.

    ``interval``: look at every that many frames and follow the face optically between them; 1 means to look at every frame and
    to take the points as they come.

    A class may have a static method ``check()`` that raises ConfigError for what is missing on this machine: drivers call it
    before work starts.
    """

    interval: int

    def __call__(self, frame: np.ndarray, near: Box | None = None) -> np.ndarray:
        """All usable faces of a uint8 (H, W, 3) RGB frame, largest first: float32 (N, 3, 2).

        Each is image-left brow centre, image-right brow centre, nose centre, (x, y) in px, with fractions. ``near`` is the box
        around the followed face a moment ago (``align.box_around``): a detector may search only there, or ignore it.
        """
        ...
