"""Why a frame is passed through untouched. Of several faces in it, the last reason in this order counts."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["Reason", "counted"]


class Reason(IntEnum):
    """A byte per frame; ``frames_{name}`` is the record's column."""

    SHOWN = 0
    """It is not passed through: a face gets the speech."""
    NO_FACE = 1
    NOT_SPEAKER = 2
    """There are faces, and none of them is the one that was chosen."""
    TOO_BRIEF = 3
    """The chosen face can be seen for two frames at most."""
    OUT_OF_PICTURE = 4
    """Its mouth is beyond the picture's edge."""
    TURNED = 5
    COVERED = 6


def counted(reasons: np.ndarray) -> np.ndarray:
    """How many frames have each reason to be passed through, in the order of ``Reason``: int32 (6,), or (0,) of none."""
    counts = np.bincount(reasons, minlength=len(Reason))[1:]
    return counts.astype(np.int32) if len(reasons) else np.zeros(0, np.int32)
