"""Judge: what the parts of a clip say together of how good its picture is, and why frames were passed through."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from latentsync_ray.quality.marks import GRID
from latentsync_ray.quality.verdict import Noted, verdict
from latentsync_ray.reasons import Reason
from latentsync_ray.types import Part

__all__ = ["quality_of"]


def quality_of(parts: Sequence[Part], fps: Fraction) -> dict[str, Any]:
    """Columns of the record. ``parts`` are all of the clip, in its order; of older ones that know nothing, nothing is told."""
    frames, tracks = np.concatenate([np.add(part.looked_at, (part.start, 0)) for part in parts]).T
    noted = Noted(
        frames=frames,
        tracks=tracks,
        traits=np.concatenate([part.traits for part in parts]),
        grids=np.concatenate([part.grids for part in parts]),
        cells=next((part.cells for part in parts if len(part.looked_at)), np.zeros((2, *GRID))),
        level=np.concatenate([part.speech_level for part in parts]),
    )
    return {**verdict(noted, fps), **_passed_through(parts)}


def _passed_through(parts: Sequence[Part]) -> dict[str, int | None]:
    """Frames without a face by reason; None where a part does not know its own."""
    names = [f"frames_{reason.name.lower()}" for reason in Reason if reason]
    if not all(part.passed.sum() == part.missing for part in parts):
        return dict.fromkeys(names)
    counts = sum((part.passed for part in parts if len(part.passed)), start=np.zeros(len(names), np.int64))
    return dict(zip(names, counts.tolist(), strict=True))
