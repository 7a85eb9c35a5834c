"""Which part of the aligned face the model repaints: cheeks, mouth and chin, up to the lower lids on both sides of the nose.

The shape is that of LatentSync's ``mask.png`` (256 x 256, binary), stored as the outline of its rows.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

__all__ = ["keep_mask"]

_TOP = 95
"""First of the rows that the two outlines run through."""
_NOSE = np.s_[95:128, 78:178]
"""The nose is kept: this block lies between the outlines."""
# fmt: off
_LEFT = (
    *[9] * 41, *[10] * 14, *[11] * 14, *[12] * 7, 13, 13, 14, 14, 15, 15, 16, 16, 17, 18, 18, 19, 19, 20, 21, 21, 22, 22, 23,
    24, 25, 26, 26, 27, 28, 29, 30, 31, 32, 33, 34, 34, 35, 36, 37, 38, 39, 40, 42, 43, 44, 45, 47, 48, 49, 51, 52, 54, 56, 57,
    59, 60, 62, 64, 66, 68, 70, 72, 74, 76, 78, 80, 82, 85, 87, 90, 93, 95, 99, 104, 108, 131,
)
"""First repainted column of each row."""
_RIGHT = (
    *[246] * 33, *[247] * 7, *[246] * 14, *[245] * 14, *[244] * 7, 243, 243, 242, 242, 241, 241, 240, 240, 239, 238, 238, 237,
    236, 236, 235, 234, 234, 233, 232, 232, 231, 230, 230, 229, 228, 228, 227, 226, 225, 224, 223, 223, 222, 221, 220, 219, 218,
    217, 216, 215, 214, 213, 212, 211, 210, 208, 207, 206, 204, 203, 202, 200, 199, 197, 196, 194, 192, 191, 189, 187, 185, 183,
    180, 178, 175, 173, 171, 168, 166, 164, 160, 156, 152,
)
"""Last repainted column of each row."""
# fmt: on


@cache
def keep_mask(resolution: int) -> np.ndarray:
    """float32 (R, R), read-only: 1 where the picture is kept, 0 where the model repaints it, between only along the outline."""
    mask = np.full((256, 256), 255, np.uint8)
    for row, (left, right) in enumerate(zip(_LEFT, _RIGHT, strict=True), start=_TOP):
        mask[row, left : right + 1] = 0
    mask[_NOSE] = 255
    # Lanczos on 8 bits, as the official code resizes the picture file; a resize to the same size changes nothing.
    keep = cv2.resize(mask, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4) / np.float32(255)
    keep.setflags(write=False)
    return keep
