"""What a probe learns about a video: its packets in display order, and how to show them. Plain data, no codec."""

from __future__ import annotations

import dataclasses as dc
from fractions import Fraction
from typing import Literal

import numpy as np

from latentsync_ray.media.colour import Colour

__all__ = ["FieldOrder", "VideoIndex"]

FieldOrder = Literal["tff", "bff", "auto"]
"""Which field of an interlaced picture is shown first: top, bottom, or as each picture says."""


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoIndex:
    """The packet table of one video stream. Rows are source frames in display order; times are ticks of ``time_base``."""

    pts: np.ndarray
    """int64 (n,), strictly increasing."""
    durations: np.ndarray
    """int64 (n,); 0 where the container does not say."""
    key_pts: np.ndarray
    """int64 (k,), increasing: the frames at which decoding can begin."""
    key_dts: np.ndarray
    """int64 (k,): where to seek for each of them."""
    time_base: Fraction
    """Seconds per tick."""
    start: Fraction
    """When the container starts, in seconds: the earliest of all its streams."""
    rate: Fraction
    """Average frames per second, between 1 and 240."""
    timed: bool
    """False where the container stores no display times (AVI with B-frames): frames count from the first one decoded."""
    max_pixels: int
    """The limit it was probed with; decoding keeps to it."""
    codec: str
    pixel_format: str
    colour: Colour
    """Of the planes that decoding yields; RGB sources are converted to BT.709."""
    coded_size: tuple[int, int]
    """Width and height in px as stored."""
    turns: int = 0
    """Quarter turns that bring a stored picture upright, in the sense of ``np.rot90``."""
    flip: bool = False
    """Whether it is mirrored left to right after that."""
    pixel_aspect: Fraction = Fraction(1)
    """Width over height of one displayed pixel."""
    fields: FieldOrder | None = None
    """Of an interlaced stream, whose pictures are deinterlaced as they are read; None for a progressive one."""

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def width(self) -> int:
        """In px, as displayed."""
        return self.coded_size[self.turns % 2]

    @property
    def height(self) -> int:
        """In px, as displayed."""
        return self.coded_size[1 - self.turns % 2]

    @property
    def seconds(self) -> float:
        """From the first frame's start to the last frame's end."""
        return float((int(self.pts[-1]) + int(self.durations[-1]) - int(self.pts[0])) * self.time_base)
