"""A second family of models, as somebody else would write it: a lower face in one colour, as bright as the sound is loud."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import torch

from latentsync_ray.models import DType, ModelRow
from latentsync_ray.template import Template
from latentsync_ray.types import Device, Span

__all__ = ["GREEN", "TOY", "Toy", "ToyInfo", "loudness"]

WINDOW, SIDE = 5, 48
GREEN = (-1.0, 1.0, -1.0)


def loudness(samples: np.ndarray, span: Span) -> np.ndarray:
    """0 to 1, float32 (F,)."""
    edges = [int(frame * 16_000 / span.fps) for frame in range(span.start, span.stop + 1)]
    loud = [np.abs(samples[first:last].astype(np.float32)).mean() for first, last in pairwise(edges)]
    return np.nan_to_num(np.array(loud, np.float32) / 8192).clip(0, 1)


@cache
def _template() -> Template:
    keep = np.ones((SIDE, SIDE), np.float32)
    keep[30:44, 8:40] = 0
    points = np.array([[19.0, 20.0], [29.0, 20.0], [24.0, 26.0]])  # further off than LatentSync sees a face
    return Template(
        side=SIDE,
        size=(SIDE, SIDE),
        points=points,
        keep=keep,
        drawn=(8 / 48, 30 / 48, 40 / 48, 44 / 48),
        mouth=(0.2, 0.6, 0.8, 0.9),
    )


class ToyInfo:
    """No weights, no notes, a template of its own."""

    name, note, window = "toy", "", WINDOW

    @property
    def template(self) -> Template:
        return _template()

    def hear(self, samples: np.ndarray, span: Span) -> np.ndarray:
        return loudness(samples, span)[None, :, None]

    def fetch(self, *, say: Callable[[str], None] | None = None, bar: bool = False) -> None: ...

    def complete(self, *, say: Callable[[str], None]) -> list[str]:
        return ["needs no files"]

    def check_elsewhere(self, *, say: Callable[[str], None]) -> None: ...

    def describe(self) -> ModelRow:
        return ModelRow(self.name, SIDE, (), found="needs no files")

    def flops(self, *, steps: int, guidance_scale: float, cache_interval: int) -> int | None:
        return None

    def memory(self, *, windows: int, guidance_scale: float, dtype: DType) -> int | None:
        return None

    def load(self, *, device: Device = "auto", dtype: DType = "auto") -> Toy:
        return Toy()


class Toy:
    """Paints."""

    info, device, checkpoint, precision = ToyInfo(), torch.device("cpu"), "0" * 64, "cpu float32"

    def compile(self) -> None: ...

    def listen(self, speech: np.ndarray, span: Span) -> torch.Tensor:
        return torch.from_numpy(speech[0, :, 0].copy())

    def silence(self, windows: int) -> torch.Tensor:
        return torch.zeros(windows, WINDOW)

    def generate(
        self,
        faces: np.ndarray,
        speech: torch.Tensor,
        *,
        steps: int,
        guidance_scale: float,
        seed: int,
        cache_interval: int = 1,
    ) -> torch.Tensor:
        keep = _template().keep[..., None]
        painted = np.array(GREEN, np.float32) * speech.numpy()[..., None, None, None]
        return torch.from_numpy(((faces / 127.5 - 1) * keep + painted * (1 - keep)).astype(np.float32))


TOY = ToyInfo()
