"""When clips were finished: counts by bins of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count

import numpy as np
import pyarrow as pa

__all__ = ["Course", "course_of"]

_WIDTHS = (10, 60, 300, 900, 3600, 4 * 3600, 86400)
"""Seconds that a bin may have; beyond, days in powers of two."""
_MOST_BINS = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What was finished when, in bins of ``bin_seconds`` from ``start`` on, pauses included.

    A clip counts with all its frames in the moment it is finished.
    """

    start: datetime
    """UTC, a multiple of ``bin_seconds``."""
    bin_seconds: int
    frames: list[int]
    ok: list[int]
    """Clips dubbed."""
    failed: list[int]
    """Clips that failed."""


def course_of(finished_at: pa.ChunkedArray, frames: np.ndarray, failed: np.ndarray) -> Course | None:
    """The course of clips by when they were finished (timestamps, null where nobody knows); None when that is known of none.

    ``frames`` int (N), ``failed`` bool (N).
    """
    known = finished_at.is_valid().to_numpy()
    if not known.any():
        return None
    seconds = finished_at.filter(pa.array(known)).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() // 1_000_000
    first, last = int(seconds.min()), int(seconds.max())
    width = next(
        each for each in chain(_WIDTHS, (86400 << power for power in count(1))) if last // each - first // each < _MOST_BINS
    )
    start = first // width
    place, bins = seconds // width - start, last // width - start + 1
    bad = failed[known]
    return Course(
        start=datetime.fromtimestamp(start * width, UTC),
        bin_seconds=width,
        frames=np.bincount(place, frames[known], bins).astype(int).tolist(),
        ok=np.bincount(place[~bad], minlength=bins).tolist(),
        failed=np.bincount(place[bad], minlength=bins).tolist(),
    )
