"""From a plan to the crops of its segments, as runners do it."""

from __future__ import annotations

from latentsync_ray.config import Recipe
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.track import Track
from latentsync_ray.types import ClipPlan, FaceCrops

__all__ = ["cut"]


def cut(plan: ClipPlan, recipe: Recipe) -> list[FaceCrops]:
    """The segments in order. Tracks are kept from test to test: they are known by the content of their video."""
    crop = Crop(recipe)
    return [crop(faces) for faces in Track(recipe, "memory://tracks")(plan)]
