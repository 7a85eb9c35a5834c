"""Where LatentSync wants a face (LatentSync 1.6, ``AlignRestore``), and where mouth and chin are then."""

from __future__ import annotations

from functools import cache

import numpy as np

from latentsync_ray.models.latentsync.mask import keep_mask
from latentsync_ray.template import Template

__all__ = ["template"]

_POINTS = ((17, 20), (58, 20), (37.5, 40))
_SIZE = (75, 100)
_SCALE = 2.8
"""The official numbers are for a crop of 75 x 100 px, which is this much larger for a picture of 256 x 256."""
_DRAWN = (9 / 256, 95 / 256, 248 / 256, 243 / 256)
"""The box around what the mask lets the model draw."""
_MOUTH = (58 / 256, 148 / 256, 198 / 256, 232 / 256)
"""Mouth and chin, and no more of the cheeks than moves with them."""


@cache
def template(side: int) -> Template:
    """The template for pictures of ``side`` px."""
    scale = side / 256 * _SCALE
    return Template(
        side=side,
        size=(int(_SIZE[0] * scale), int(_SIZE[1] * scale)),  # truncation of the double: 209 rather than 210 rows at 192 px
        points=np.array(_POINTS) * scale,
        keep=keep_mask(side),
        drawn=_DRAWN,
        mouth=_MOUTH,
    )
