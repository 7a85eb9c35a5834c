"""Detectors that go wrong on a red frame, each in its own way."""

from __future__ import annotations

import os

import numpy as np

from latentsync_ray.faces import Box
from latentsync_ray.faces.embedded import EmbeddedDetector

__all__ = ["Buggy", "Deadly", "is_red"]


def is_red(frame: np.ndarray) -> bool:
    """Whether the frame is plain red."""
    red, green, blue = frame.reshape(-1, 3).mean(axis=0)
    return bool(red > 180 and green < 60 and blue < 60)


class Deadly(EmbeddedDetector):
    """Takes its process along, as running out of memory would."""

    def __call__(self, frame: np.ndarray, near: Box | None = None) -> np.ndarray:
        if is_red(frame):
            os._exit(1)
        return super().__call__(frame, near)


class Buggy(EmbeddedDetector):
    """Has a bug."""

    def __call__(self, frame: np.ndarray, near: Box | None = None) -> np.ndarray:
        if is_red(frame):
            raise ZeroDivisionError("a bug in a detector")
        return super().__call__(frame, near)
