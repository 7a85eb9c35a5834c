"""New faces in one byte a colour: clamped, or with room for what lies beyond black and white.

A decoder overshoots. Official LatentSync clamps only after it has resized and warped a face, so that a value beyond white still
lifts its neighbours; whoever wants its frames (``recipe.paste=crop``) has to keep such values until then. They get 28 codes of
256 on either side, the nearer the finer. That costs a rounding error of 0.64 levels in place of 0.5 between black and white;
float16 would be exact and take twice the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["from_codes", "to_codes", "to_uint8"]

_BEYOND = 28
"""Codes below black, and as many above white."""
_FURTHEST = 224.0
"""Levels that the outermost code is beyond."""


def _table() -> np.ndarray:
    """Grey level of each code, float64 (256,)."""
    inside = np.linspace(0, 255, 256 - 2 * _BEYOND)
    step, away = inside[1], np.arange(1, _BEYOND + 1)
    beyond = step * away + (_FURTHEST - step * _BEYOND) * (away / _BEYOND) ** 2
    return np.concatenate([-beyond[::-1], inside, 255 + beyond])


_LEVELS = _table()
_PICTURES = (_LEVELS / 127.5 - 1).astype(np.float32)
_BETWEEN = ((_LEVELS[1:] + _LEVELS[:-1]) / 2 / 127.5 - 1).astype(np.float32)


def to_uint8(faces: Tensor) -> Tensor:
    """[-1, 1] floats, not clamped, to grey levels, on their device."""
    return (faces * 127.5 + 127.5).clamp_(0, 255).round_().byte()


def to_codes(faces: Tensor) -> Tensor:
    """Floats, black at -1 and white at 1, to codes, uint8; what is beyond 224 levels off them is clamped."""
    import torch

    return torch.bucketize(faces, torch.from_numpy(_BETWEEN).to(faces.device), out_int32=True).byte()


def from_codes(codes: np.ndarray) -> np.ndarray:
    """Codes to floats: float32, -2.76 to 2.76."""
    return _PICTURES[codes]
