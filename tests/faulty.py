"""A detector that goes wrong: a red frame takes its process along, a blue one meets a bug."""

from __future__ import annotations

import os

import numpy as np

from latentsync_ray.faces import Box
from latentsync_ray.faces.embedded import EmbeddedDetector

__all__ = ["Faulty"]


class Faulty(EmbeddedDetector):
    """Dies as if out of memory, or raises."""

    def __call__(self, frame: np.ndarray, near: Box | None = None) -> np.ndarray:
        red, green, blue = frame.reshape(-1, 3).mean(axis=0)
        if red > 180 and max(green, blue) < 60:
            os._exit(1)
        if blue > 180 and max(red, green) < 60:
            raise ZeroDivisionError("a bug in a detector")
        return super().__call__(frame, near)
