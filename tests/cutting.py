"""The crops of segments: from a plan, as runners do it, or out of arrays."""

from __future__ import annotations

import numpy as np

from latentsync_ray.config import Recipe
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.track import Track
from latentsync_ray.types import ClipPlan, FaceCrops

__all__ = ["STEPS", "crops", "cut"]

STEPS = 500
"""Of Whisper, that the speech of ``crops`` has."""


def cut(plan: ClipPlan, recipe: Recipe) -> list[FaceCrops]:
    """The segments in order. Tracks are kept from test to test: they are known by the content of their video."""
    crop = Crop(recipe)
    return [crop(faces) for faces in Track(recipe, "memory://tracks")(plan)]


def crops(start: int, stop: int, clip: np.ndarray, found: np.ndarray, mel: np.ndarray) -> FaceCrops:
    """Of frames ``start`` to ``stop`` of a clip, those with a face that was found."""
    frames = np.flatnonzero(found[start:stop]).astype(np.int32)
    return FaceCrops(
        clip_id="a",
        video="v",
        audio="s",
        guidance_scale=1.0,
        seed=1,
        samples=320 * STEPS,
        start=start,
        stop=stop,
        source_frames=np.arange(start, stop, dtype=np.int32),
        frames=frames,
        tracks=np.zeros(len(frames), np.int32),
        weights=np.ones(len(frames), np.float32),
        affines=np.zeros((len(frames), 2, 3), np.float32),
        outlines=np.zeros((len(frames), 0, 2), np.float32),
        faces=clip[start + frames],
        speech=mel,
    )
