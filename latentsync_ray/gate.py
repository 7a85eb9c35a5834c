"""What a clip has to reach, and what is done about one that does not: the section ``quality`` of a job.

Clips that fall short are made again in ``stages.tried``. Knows the names of measures, and nothing of how they are taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from latentsync_ray.resources import Strict

__all__ = ["MEASURES", "Quality"]

MEASURES: dict[str, Literal["min", "max"]] = {
    "sync_score": "min",
    "seam": "max",
    "sharpness": "min",
    "flicker": "max",
    "identity": "min",
    "skin_shift": "max",
    "silence_motion": "max",
}
"""Columns by which clips are judged, and which end of each is bad: below a ``min``, above a ``max``."""
_STEP, _MOST = 0.5, 2.0
"""How much guidance goes up each time, and where it ends."""

_Limit = Annotated[float, Field(allow_inf_nan=False)] | None


class Quality(Strict):
    """Limits that a clip's measures must keep; one that cannot be told keeps them. Clips that do not are made again."""

    min_sync_score: Annotated[float, Field(ge=0, le=1)] | None = None
    """0 to 1: the probability that lips and sound belong together."""
    max_seam: _Limit = None
    """Grey levels."""
    min_sharpness: _Limit = None
    """1: as sharp as the source."""
    max_flicker: _Limit = None
    """Grey levels."""
    min_identity: _Limit = None
    """1: the same face."""
    max_skin_shift: _Limit = None
    """CIEDE2000."""
    max_silence_motion: _Limit = None
    """A share of the motion while the speech is loud."""
    retry: Annotated[int, Field(ge=0, le=10)] = 0
    """How often a clip is made again."""
    vary: tuple[Literal["seed", "guidance"], ...] = ("seed", "guidance")
    """What is changed each time, in this order; the last of them from then on. ``seed``: the next one; ``guidance``: up by 0.5,
    and the seed where it is at 2."""
    otherwise: Literal["publish", "withhold"] = "publish"
    """What becomes of a clip of which no attempt keeps the limits: the best is published with the status
    ``ok_below_quality``, or the clip fails as ``below_quality``."""

    @field_validator("vary", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """One word, or a list of them."""
        if value in ([], ()):
            raise PydanticCustomError("vary", "name at least one of seed, guidance")
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if not any(getattr(self, f"{bad}_{name}") is not None for name, bad in MEASURES.items()):
            limits = ", ".join(f"{bad}_{name}" for name, bad in MEASURES.items())
            raise PydanticCustomError("quality", "give at least one limit: {limits}", {"limits": limits})
        return self

    def failing(self, facts: Mapping[str, Any]) -> dict[str, float]:
        """Measure -> by how much of its limit it misses it, of those that do."""
        missed = {}
        for name, bad in MEASURES.items():
            limit, value = getattr(self, f"{bad}_{name}"), facts.get(name)
            if limit is not None and value is not None:
                short = (limit - value if bad == "min" else value - limit) / (abs(limit) or 1.0)
                if not short <= 0:
                    missed[name] = float(short) if short > 0 else math.inf
        return missed

    def varied(self, seed: int, guidance_scale: float, attempt: int) -> tuple[int, float]:
        """Seed and guidance of an attempt: the row's own for 0, the first."""
        for number in range(attempt):
            if self.vary[min(number, len(self.vary) - 1)] == "guidance" and guidance_scale < _MOST:
                guidance_scale = min(_MOST, guidance_scale + _STEP)
            else:
                seed = (seed + 1) % 2**63
        return seed, guidance_scale
