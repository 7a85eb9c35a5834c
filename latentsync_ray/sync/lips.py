"""What the lips in aligned faces do: how far they are open, how wide and how high the mouth is.

Knows faces as a model draws them and where their mouths are; knows nothing about sound.
"""

from __future__ import annotations

import cv2
import numpy as np

from latentsync_ray.sync.networks import Floats, Weights, look, shipped_weights
from latentsync_ray.template import Shares

__all__ = ["FACTS", "LEAST_MOUTH", "PICTURE", "normalised", "read_lips", "seen_mouth"]

PICTURE = (56, 40)
"""Columns and rows of the picture that the network sees."""
FACTS = 3
"""Root of the opening between the lips, width from corner to corner, height with the lips."""
LEAST_MOUTH = 20.0
"""px of the video that mouth and chin have to be wide."""
_SIDES, _ABOVE, _BELOW = 0.1, 0.476, -0.048
"""By how much of its width and height what is looked at is larger than mouth and chin: mouths lie higher for some detectors."""
_FLAT = 6.0
"""Grey levels of contrast under which noise is not made louder."""


def read_lips(faces: np.ndarray, places: np.ndarray, mouth: Shares, *, weights: Weights | None = None) -> Floats:
    """What the lips do in each frame: float32 (F, 3), in the scale of the mouth; see ``FACTS``.

    ``faces`` are aligned crops (P, R, R, 3) uint8, ``places`` (F,) says which of them each frame shows, -1 for none, and
    ``mouth`` where mouth and chin are in them. NaN where a frame shows none.
    """
    weights = shipped_weights() if weights is None else weights
    read = np.full((len(places), FACTS), np.nan, np.float32)
    for frame, place in enumerate(places.tolist()):
        if place >= 0:
            read[frame] = look(weights, normalised(seen_mouth(faces[place], mouth)))
    return read


def seen_mouth(face: np.ndarray, mouth: Shares) -> np.ndarray:
    """The part of an aligned face (R, R, 3) that is looked at, uint8 (40, 56, 3)."""
    left, top, right, bottom = mouth
    width, height, side = right - left, bottom - top, len(face)
    edges = (left - _SIDES * width, right + _SIDES * width, top - _ABOVE * height, bottom + _BELOW * height)
    x0, x1, y0, y1 = (min(max(round(edge * side), 0), side) for edge in edges)
    part = face[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return cv2.resize(part, PICTURE, interpolation=cv2.INTER_AREA if x1 - x0 > PICTURE[0] else cv2.INTER_LINEAR)


def normalised(picture: np.ndarray) -> Floats:
    """Brightness and two colours of a uint8 picture (..., H, W, 3), without those of the light: float32 (..., 3, H, W)."""
    red, green, blue = np.moveaxis(picture.astype(np.float32), -1, 0)
    grey = (red + green + blue) / 3
    layers = np.stack([grey, red - green, green - blue], axis=-3)
    contrast = grey.std(axis=(-2, -1), keepdims=True)[..., None, :, :] + _FLAT
    return (layers - layers.mean(axis=(-2, -1), keepdims=True)) / contrast
