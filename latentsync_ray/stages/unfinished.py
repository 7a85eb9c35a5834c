"""A clip between its last part and its record, and what is done to it one step after the other. See ``join``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from latentsync_ray.recipe import Recipe
from latentsync_ray.sinks import Sink
from latentsync_ray.types import Clip, Part

__all__ = ["Step", "Unfinished"]


@dataclass(slots=True, kw_only=True)
class Unfinished:
    """A clip between its last part and its record."""

    recipe: Recipe
    output: str
    sink: Sink
    parts: Sequence[Part]
    """All of the clip, in its order."""
    file: Path
    """The MP4, in a folder that goes when the steps are done; ``mux`` writes it."""
    sound_start: Fraction = Fraction(0)
    """Seconds from the first frame to the first sample."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Columns of the record."""

    @property
    def clip(self) -> Clip:
        return self.parts[0]

    @property
    def fps(self) -> Fraction:
        return Fraction(self.clip.fps_num, self.clip.fps_den)


Step = Callable[[Unfinished], None]
"""Changes the clip. Raises ClipError when it cannot be finished, MixedParts when its parts will never make one."""
