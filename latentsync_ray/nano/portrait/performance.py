"""What a talking head does, frame by frame: mouth, lids and pose as arrays, given, measured from speech or drawn at random.

Knows time and chance; knows nothing about pictures.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Self

import numpy as np

from latentsync_ray.nano.portrait.speech import mouth_curves

__all__ = ["Performance"]

_BLINK = (0.5, 1.0, 0.9, 0.45)
"""Closure of the lids at 25 fps: down faster than up, 160 ms in all."""
_SWAY = np.array([4.5, 3.0, 1.6, 0.008, 0.012])
"""Size of the idle motion: px right, px down, degrees, relative size, shear."""


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Performance:
    """One entry per frame. All are float32; ``pose`` is (N, 5), the others are (N,)."""

    aperture: np.ndarray
    """0 lips closed, 1 jaw dropped."""
    width: np.ndarray
    """-1 rounded, 1 stretched."""
    lids: np.ndarray
    """0 eyes open, 1 closed."""
    pose: np.ndarray
    """Right and down (px of the portrait), roll (degrees, clockwise), size (1 as photographed), shear."""

    def __post_init__(self) -> None:
        count = len(self.aperture)
        shapes = {field.name: getattr(self, field.name).shape for field in dc.fields(self)}
        expected = {"aperture": (count,), "width": (count,), "lids": (count,), "pose": (count, 5)}
        if shapes != expected:
            raise ValueError(f"a performance of {count} frames needs arrays of shapes {expected}, got {shapes}")

    def __len__(self) -> int:
        return len(self.aperture)

    @classmethod
    def of_mouth(
        cls, aperture: np.ndarray, width: np.ndarray | None = None, *, fps: float = 25, seed: int = 0, motion: float = 1.0
    ) -> Self:
        """These mouth curves, with blinks and a swaying head drawn from ``seed``; ``motion`` scales the sway, 0 is still."""
        count, draw = len(aperture), np.random.default_rng(seed)
        return cls(
            aperture=np.asarray(aperture, np.float32),
            width=np.zeros(count, np.float32) if width is None else np.asarray(width, np.float32),
            lids=_blinks(count, fps, draw),
            pose=_sway(count, fps, draw, motion),
        )

    @classmethod
    def of_speech(
        cls, samples: np.ndarray, rate: int, *, fps: float = 25, frames: int | None = None, seed: int = 0, motion: float = 1.0
    ) -> Self:
        """The head that says ``samples`` (mono, float, ``rate`` Hz); ``frames`` defaults to what the sound fills."""
        aperture, width = mouth_curves(samples, rate, fps=fps, frames=frames)
        return cls.of_mouth(aperture, width, fps=fps, seed=seed, motion=motion)


def _blinks(count: int, fps: float, draw: np.random.Generator) -> np.ndarray:
    """Closure of the lids, a blink every 1.8 to 3.8 s."""
    seconds = np.arange(count) / fps
    lids = np.zeros(count)
    start = draw.uniform(1.0, 3.0)
    while start < count / fps:
        lids += np.interp(seconds - start, np.arange(-1, len(_BLINK) + 1) / 25, (0, *_BLINK, 0))
        start += draw.uniform(1.8, 3.8)
    return np.minimum(lids, 1).astype(np.float32)


def _sway(count: int, fps: float, draw: np.random.Generator, motion: float) -> np.ndarray:
    """Poses (count, 5): for each of the five, a slow and a quicker wave, at rates that never line up."""
    angle = 2 * np.pi * np.arange(count)[:, None] / fps
    slow, quick = draw.uniform(0.12, 0.28, 5), draw.uniform(0.3, 0.5, 5)  # Hz; faster looks nervous
    phases = draw.uniform(0, 2 * np.pi, (2, 5))
    waves = 0.7 * np.sin(angle * slow + phases[0]) + 0.3 * np.sin(angle * quick + phases[1])
    return (np.array([0, 0, 0, 1, 0]) + motion * _SWAY * waves).astype(np.float32)
