"""Invisible watermarks: a hook for a model of your own, such as VideoSeal or TrustMark, which are not part of this package."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from latentsync_ray.errors import ConfigError

__all__ = ["Watermark", "apply_watermark"]


class Watermark(Protocol):
    """What ``recipe.watermark`` names: made without arguments, once in each process that encodes.

    Has to give the same for the same frame on every machine, or two runs differ.
    """

    def __call__(self, frame: np.ndarray, number: int, /) -> np.ndarray:
        """``frame`` (uint8 RGB (H, W, 3), not to be changed) with the mark, of the same kind; ``number`` counts from 0."""
        ...


def apply_watermark(
    mark: Watermark, number: int, y: np.ndarray, u: np.ndarray, v: np.ndarray, matrix: np.ndarray, offset: np.ndarray
) -> None:
    """Have ``mark`` change 8-bit YUV 4:2:0 planes, in place: what it adds in RGB is added, and nothing else changes.

    ``matrix`` (3, 3) and ``offset`` (3,) turn RGB 0..255 into the clip's YUV. Raises ConfigError for an answer of another kind.
    """
    size = y.shape[::-1]
    planes = [y, *(cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST) for plane in (u, v))]
    rgb = (np.stack(planes, axis=-1).astype(np.float32) - offset) @ np.linalg.inv(matrix).T
    frame = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    marked = mark(frame.copy(), number)
    if not isinstance(marked, np.ndarray) or marked.dtype != np.uint8 or marked.shape != frame.shape:
        kind = f"{marked.dtype}{marked.shape}" if isinstance(marked, np.ndarray) else type(marked).__name__
        raise ConfigError(f"recipe.watermark gave {kind} for a frame; it must give uint8{frame.shape}")
    added = (marked.astype(np.float32) - frame) @ matrix.T
    _add(y, added[..., 0])
    for plane, channel in ((u, 1), (v, 2)):
        _add(plane, cv2.resize(added[..., channel], plane.shape[::-1], interpolation=cv2.INTER_AREA))


def _add(plane: np.ndarray, added: np.ndarray) -> None:
    plane[:] = np.clip(np.rint(plane + added), 0, 255)
