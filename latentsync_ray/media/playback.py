"""Pictures in the order in which the output shows them: forwards, backwards and again.

Knows how to turn an arbitrary order into random accesses that each run forwards; decoding itself is in ``decode.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latentsync_ray.media.decode import FrameReader, Picture
from latentsync_ray.media.source import VideoIndex

__all__ = ["play"]

_HELD_BYTES = 96 << 20
"""Decoded pictures held to show a stretch backwards: about 30 frames of 1080p, whatever the length of the clip."""

_FEWEST_HELD = 12
"""Held even when frames are huge: every backward stretch costs a decode from the keyframe before it."""


def play(path: Path, index: VideoIndex, rows: np.ndarray, *, reader: FrameReader | None = None) -> Iterator[Picture]:
    """One picture per entry of ``rows`` (source frames in any order, repeats allowed), a bounded number in memory.

    A ``reader`` that was used for the rows before goes on from there.
    """
    reader = reader or FrameReader()
    held = max(_FEWEST_HELD, int(_HELD_BYTES / (index.width * index.height * 1.5)))
    for run in _runs(rows, held):
        if run[-1] >= run[0]:
            pictures = reader.read(path, index, np.unique(run))
            row, picture = next(pictures)
            for wanted in run:
                while row < wanted:
                    row, picture = next(pictures)
                yield picture
            next(pictures, None)  # so that the reader knows that it is through
        else:
            shown = dict(reader.read(path, index, np.unique(run)))
            for wanted in run:
                yield shown[int(wanted)]


def _runs(rows: np.ndarray, held: int) -> Iterator[np.ndarray]:
    """Cut into stretches that never fall, of any length, and stretches that never rise, of at most ``held`` rows."""
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and rows[stop] >= rows[stop - 1]:
            stop += 1
        if stop == start + 1:
            while stop < len(rows) and rows[stop] <= rows[stop - 1] and stop - start < held:
                stop += 1
        yield rows[start:stop]
        start = stop
