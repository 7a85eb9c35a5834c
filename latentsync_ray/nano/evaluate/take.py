"""A clip of the portrait for dubbing, and the same head saying what it shall say: the truth for a dubbed clip."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from latentsync_ray.measure import best_lag
from latentsync_ray.media.colour import BT709
from latentsync_ray.media.encode import encode_part, planes_of
from latentsync_ray.media.join import join_parts
from latentsync_ray.media.speech import SAMPLE_RATE, write_wav
from latentsync_ray.nano.portrait import Light, Performance, mouth_curves, render_clip

__all__ = ["Take", "make_take", "write_portrait", "write_take"]

_FPS = 25
_SHIFT = 5
"""Frames between two beginnings that are tried."""


@dc.dataclass(frozen=True, kw_only=True, eq=False)
class Take:
    """A talking head that says one thing and shall say another, 25 frames per second, N frames."""

    filmed: Performance
    wanted: Performance
    """The same head, in the same pose and with the same blinks, saying ``speech``."""
    speech: np.ndarray
    """int16 (samples,), 16 kHz: what it shall say."""
    size: int = 384
    light: Light = dc.field(default_factory=Light)

    def source(self) -> Iterator[np.ndarray]:
        """The frames that are filmed, uint8 (size, size, 3) RGB."""
        return render_clip(self.filmed, size=self.size, light=self.light)

    def truth(self) -> Iterator[np.ndarray]:
        """The frames that a perfect model makes of them."""
        return render_clip(self.wanted, size=self.size, light=self.light)


def make_take(
    own: np.ndarray, speech: np.ndarray, *, seed: int = 0, size: int = 384, light: Light | None = None, motion: float = 1.0
) -> Take:
    """The head that says ``own`` and shall say ``speech``: both mono int16 at 16 kHz. As long as ``speech``.

    ``own`` is repeated where needed and begins where the two mouths have least in common (two sentences that begin and end
    alike would correlate for that alone).
    """
    count = max(1, round(Fraction(len(speech), SAMPLE_RATE) * _FPS))  # as the plan counts them
    shall_say = _curves(speech, count)
    own = np.resize(own, count * SAMPLE_RATE // _FPS)
    begins = np.arange(0, count, _SHIFT) * SAMPLE_RATE // _FPS
    says = min((_curves(np.roll(own, -begin), count) for begin in begins), key=lambda curves: abs(_likeness(curves, shall_say)))
    filmed = Performance.of_mouth(*says, fps=_FPS, seed=seed, motion=motion)
    wanted = dc.replace(filmed, aperture=shall_say[0], width=shall_say[1])
    return Take(filmed=filmed, wanted=wanted, speech=speech, size=size, light=light or Light())


def _curves(samples: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    return mouth_curves(samples.astype(np.float32) / 32768, SAMPLE_RATE, fps=_FPS, frames=count)


def _likeness(curves: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> float:
    return best_lag(curves[0], others[0], reach=0)[0] or 0.0


def write_take(take: Take, folder: Path, name: str = "take") -> tuple[Path, Path]:
    """Write the filmed clip as ``name.mp4`` and the speech as ``name.wav``: a pair, and a manifest when alone in the folder."""
    video, audio = folder / f"{name}.mp4", folder / f"{name}.wav"
    write_wav(audio, take.speech)
    write_portrait(video, take.source(), audio)
    return video, audio


def write_portrait(path: Path, frames: Iterable[np.ndarray], audio: Path, *, crf: int = 18) -> None:
    """Encode square RGB ``frames`` at 25 per second with the sound of ``audio``: H.264 and AAC in MP4, tagged BT.709."""
    pictures = iter(frames)
    first = next(pictures)
    planes = (planes_of(picture) for picture in chain([first], pictures))
    size = first.shape[1], first.shape[0]
    part = encode_part(planes, fps=Fraction(_FPS), size=size, colour=BT709, crf=crf, preset="veryfast")
    join_parts([part], audio, path, fps=Fraction(_FPS))
