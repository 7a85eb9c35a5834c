"""The network that says how well lips and sound agree, trained on what lips do in ``tracks`` and on how they may be misread.

It is asked at which of 31 offsets lips and sound belong together, or whether at none.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from latentsync_ray.nano.sync.articulation import RATE
from latentsync_ray.nano.sync.tracks import Track
from latentsync_ray.nano.training.loop import train
from latentsync_ray.sync.networks import HEAR_STRIDES, WATCH_STRIDES
from latentsync_ray.sync.score import REACH, prepared_lips, prepared_sound

__all__ = ["Ear", "Excerpt", "excerpt", "train_ear"]

_FPS = 25
_WIDTHS, _SIZE = 48, 32
_BATCH = 24
_LENGTHS = (50, 75, 100, 150)
"""Frames of an excerpt."""
_TRIES = 10_000
_FOREIGN = 0.35
"""Share of excerpts whose lips say something else."""
_PORTRAIT = 0.28
"""Share of excerpts whose lips are the rendered portrait's."""


class Ear(nn.Module):
    """Two stacks of filters over time, whose outputs are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.hear = _stack(40, (5, 5, 5, 5, 3), HEAR_STRIDES)
        self.watch = _stack(6, (5, 5, 3), WATCH_STRIDES)
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.none = nn.Parameter(torch.tensor(-2.0))

    def forward(self, sound: Tensor, lips: Tensor) -> Tensor:
        """Logits (B, 32) of 31 offsets and of none, for prepared sound (B, 40, 4 T) and lips (B, 6, T)."""
        watched, heard = normalize(_through(self.watch, lips), dim=1), normalize(_through(self.hear, sound), dim=1)
        pairs = torch.einsum("bkt,bku->btu", watched, heard)
        sums = [torch.diagonal(pairs, -late, 1, 2).sum(1) for late in range(-REACH, REACH + 1)]
        offsets = torch.stack(sums, 1) * self.scale.exp()
        return torch.cat([offsets + self.none, torch.zeros_like(offsets[:, :1])], 1)


def _stack(channels: int, widths: Sequence[int], strides: Sequence[int]) -> nn.ModuleList:
    sizes = [channels, *[_WIDTHS] * (len(widths) - 1), _SIZE]
    layers = zip(sizes, sizes[1:], widths, strides, strict=False)
    return nn.ModuleList(nn.Conv1d(a, b, width, stride, width // 2) for a, b, width, stride in layers)


def _through(stack: nn.ModuleList, state: Tensor) -> Tensor:
    for number, layer in enumerate(stack):
        state = layer(nn.functional.gelu(state, approximate="tanh") if number else state)
    return state


@dc.dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Some seconds of sound and of lips."""

    mel: np.ndarray
    """float32 (80, 4 T)."""
    lips: np.ndarray
    """float32 (T, 3), as ``sync.lips`` reads them."""
    late: int | None
    """Frames by which the lips are late; None when they say something else."""


def excerpt(tracks: Sequence[Track], draw: np.random.Generator, frames: int, *, late: int | None) -> Excerpt:
    """An excerpt whose lips are as late as that, to half a frame."""
    seconds = frames / _FPS
    track = _long_enough(tracks, draw, seconds + 1.3)
    start = round(draw.uniform(0.65, track.seconds - seconds - 0.65) * RATE)
    mel = track.mel[:, start : start + 4 * frames].astype(np.float32)
    speaker = -1 if draw.random() < _PORTRAIT else int(draw.integers(len(track.lips) - 1))
    if late is None:
        other = track
        while other is track:
            other = _long_enough(tracks, draw, seconds)
        begins, said = draw.uniform(0, other.seconds - seconds), other.lips[speaker]
    else:
        begins, said = start / RATE - (late + draw.uniform(-0.4, 0.4)) / _FPS + draw.normal(0, 0.008), track.lips[speaker]
    at = (begins + (np.arange(frames) + 0.5) / _FPS) * RATE
    opening, width = (np.interp(at, np.arange(said.shape[1]), curve.astype(np.float32)) for curve in said)
    return Excerpt(mel=_heard(mel, draw), lips=_read(opening, width, draw), late=late)


def _long_enough(tracks: Sequence[Track], draw: np.random.Generator, seconds: float) -> Track:
    for _ in range(_TRIES):
        track = tracks[int(draw.integers(len(tracks)))]
        if track.seconds > seconds + 0.05:
            return track
    raise ValueError(f"hardly any track is longer than {seconds:g} s")


def _heard(mel: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Log-mel with another colour, gaps and background."""
    if draw.random() < 0.5:
        mel = mel + np.interp(np.arange(80), np.linspace(0, 79, 7), draw.normal(0, 0.1, 7))[:, None]
    if draw.random() < 0.3:
        count = draw.integers(1, 12)
        first = draw.integers(0, 80 - count)
        mel = mel.copy()
        mel[first : first + count] = mel[first : first + count].mean()
    floor = mel.max() - 2 + (draw.uniform(0, 1.2) if draw.random() < 0.5 else 0)
    return (np.maximum(mel, floor) * np.exp(draw.normal(0, 0.15))).astype(np.float32)


def _read(opening: np.ndarray, width: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Lips (T,) as a picture shows them and a network reads them: wrong by a little, and by more that changes slowly."""
    count = len(opening)

    def slow(low: float, high: float) -> np.ndarray:
        wave = gaussian_filter1d(draw.normal(0, 1, count + 80), draw.uniform(low, high))[40 : 40 + count]
        return wave / (wave.std() + 1e-6)

    opening = np.clip(opening, 0, None)
    rounded = np.maximum(0, -width)
    height = opening + draw.uniform(0.1, 0.5) * rounded
    root = opening ** (0.5 * np.exp(draw.normal(0, 0.3)))
    width = width * draw.uniform(0.1, 1) + draw.normal(0, 0.5) * opening * (draw.random() < 0.7)
    curves = []
    posing, blur = slow(4, 25), draw.uniform(0.4, 1.0) if draw.random() < 0.5 else 0.0
    for curve, wrong in zip((root, width, height), (1.0, 1.8, 1.3), strict=True):
        seen = gaussian_filter1d(curve, blur) if blur else curve
        size = seen.std() + 0.05
        noise = draw.uniform(0, 0.3) * draw.normal(0, 1, count) + draw.uniform(0, 0.45) * slow(1, 5)
        noise += draw.uniform(0, 0.5) * slow(8, 40) + draw.uniform(0, 0.6) * posing * draw.choice([-1, 1])
        curves.append(seen + wrong * size * noise)
    lips = np.stack(curves, 1).astype(np.float32)
    if draw.random() < 0.1:
        first = draw.integers(0, count - 12)
        lips[first : first + draw.integers(1, 12)] = np.nan
    return lips


def train_ear(path: Path, tracks: Sequence[Track], *, steps: int) -> Ear:
    """The network, trained for ``steps``; goes on from ``path``."""

    def loss_of(draw: np.random.Generator) -> Tensor:
        frames, sounds, lips, answers = int(draw.choice(_LENGTHS)), [], [], []
        for _ in range(_BATCH):
            late = None if draw.random() < _FOREIGN else int(draw.integers(-REACH, REACH + 1))
            each = excerpt(tracks, draw, frames, late=late)
            sounds.append(prepared_sound(each.mel))
            lips.append(prepared_lips(each.lips))
            answers.append(2 * REACH + 1 if late is None else late + REACH)
        return cross_entropy(ear(torch.from_numpy(np.stack(sounds)), torch.from_numpy(np.stack(lips))), torch.tensor(answers))

    ear = Ear()
    return train(path, ear, loss_of, steps=steps, rate=4e-3, average=0.99, device=torch.device("cpu"))
