"""Models that know what they have to draw, or draw it with a fault: what measures of quality are measured with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from latentsync_ray.config import Recipe
from latentsync_ray.faces.align import crop_face
from latentsync_ray.models import Model, ModelInfo
from latentsync_ray.nano.evaluate.take import Take
from latentsync_ray.sinks.mp4 import Mp4Sink
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.generate import Generate
from latentsync_ray.stages.join import Join
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.track import Track
from latentsync_ray.types import ClipRecord, FaceCrops, Pair, Span

__all__ = ["DAMAGES", "Damage", "Damaged", "Known", "Remembering", "dub_with", "truth_of"]

Damage = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""What a model drew in a window, and what it saw: float32 (W, R, R, 3), grey levels. Gives what it shall have drawn."""


class Known:
    """Draws what is known of each face that it sees, and else the face itself: its own mouth, as if it were new."""

    device, checkpoint, precision = torch.device("cpu"), "0" * 64, "cpu float32"

    def __init__(self, info: ModelInfo, pictures: dict[bytes, np.ndarray] | None = None) -> None:
        self.info, self.pictures = info, pictures or {}

    def compile(self) -> None: ...

    def listen(self, speech: np.ndarray, span: Span) -> torch.Tensor:
        """Nothing of it."""
        return torch.zeros(span.stop - span.start, 1)

    def silence(self, windows: int) -> torch.Tensor:
        """The same."""
        return torch.zeros(windows, self.info.window, 1)

    def generate(self, faces: np.ndarray, speech: torch.Tensor, **asked: Any) -> torch.Tensor:
        """See ``Model``."""
        drawn = [[self.pictures.get(face.tobytes(), face) for face in window] for window in faces]
        return torch.from_numpy(np.array(drawn, np.float32) / 127.5 - 1)


class _Wrapped:
    """A model that is another one but for what it draws."""

    def __init__(self, model: Model) -> None:
        self.model, self.device, self.checkpoint = model, model.device, model.checkpoint
        self.info, self.precision = model.info, model.precision

    def compile(self) -> None: ...

    def listen(self, speech: np.ndarray, span: Span) -> torch.Tensor:
        """See ``Model``."""
        return self.model.listen(speech, span)

    def silence(self, windows: int) -> torch.Tensor:
        """See ``Model``."""
        return self.model.silence(windows)


class Remembering(_Wrapped):
    """Draws each window once, however often it is asked."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._drawn: dict[tuple[Any, ...], torch.Tensor] = {}

    def generate(self, faces: np.ndarray, speech: torch.Tensor, **asked: Any) -> torch.Tensor:
        """See ``Model``."""
        key = (faces.tobytes(), speech.numpy().tobytes(), *asked.items())
        if key not in self._drawn:
            self._drawn[key] = self.model.generate(faces, speech, **asked)
        return self._drawn[key]


class Damaged(_Wrapped):
    """Draws with a fault."""

    def __init__(self, model: Model, damage: Damage) -> None:
        super().__init__(model)
        self.damage = damage

    def generate(self, faces: np.ndarray, speech: torch.Tensor, **asked: Any) -> torch.Tensor:
        """See ``Model``."""
        drawn = (self.model.generate(faces, speech, **asked).numpy() + 1) * 127.5
        spoilt = [self.damage(window, seen.astype(np.float32)) for window, seen in zip(drawn, faces, strict=True)]
        return torch.from_numpy(np.array(spoilt, np.float32) / 127.5 - 1)


def _frozen() -> Damage:
    first: list[np.ndarray] = []

    def damage(drawn: np.ndarray, seen: np.ndarray) -> np.ndarray:
        first.append(drawn[0])
        return np.repeat(first[0][None], len(drawn), axis=0)

    return damage


def _each(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    return lambda drawn, seen: np.stack([change(picture) for picture in drawn])


def _moved(right: float, down: float) -> Damage:
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return _each(lambda face: cv2.warpAffine(face, matrix, face.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))


def _every_third(drawn: np.ndarray, seen: np.ndarray) -> np.ndarray:
    spoilt = drawn.copy()
    spoilt[::3] = seen[::3]
    return spoilt


DAMAGES: dict[str, Callable[[], Damage]] = {
    "mouth frozen": _frozen,
    "mouth blurred (sigma 3)": lambda: _each(lambda face: cv2.GaussianBlur(face, (0, 0), 3)),
    "patch 6 px right": lambda: _moved(6, 0),
    "patch 6 px down": lambda: _moved(0, 6),
    "8 levels red": lambda: _each(lambda face: face + np.array([8, 0, 0], np.float32)),
    "8 levels blue": lambda: _each(lambda face: face + np.array([0, 0, 8], np.float32)),
    "8 levels brighter": lambda: _each(lambda face: face + np.float32(8)),
    "every third frame original": lambda: _every_third,
}
"""Faults to plant, in px of the model's picture: each is made anew for a clip."""


def truth_of(take: Take, crops: Sequence[FaceCrops], info: ModelInfo) -> dict[bytes, np.ndarray]:
    """What a perfect model draws of each face of ``take``, for ``Known``; ``crops`` are its segments, as of ``aligned``."""
    truth, pictures = list(take.truth()), {}
    for segment in crops:
        for face, frame, affine in zip(segment.faces, segment.frames, segment.affines, strict=True):
            pictures[face.tobytes()] = crop_face(truth[segment.start + frame], affine, info.template, official=False)
    return pictures


def dub_with(model: Model, pair: Pair, folder: Path, *, recipe: Recipe) -> ClipRecord:
    """Dub a pair in this process with a model that is at hand; the recipe's needs no weights."""
    output = str(folder)
    crop, generate, paste = Crop(recipe), Generate(recipe, "cpu", model=model), Paste(recipe, output)
    segments = Track(recipe, output)(Plan(recipe, output)(pair))
    return Join(recipe, output, Mp4Sink(output), commit=False)([paste(generate(crop(faces))) for faces in segments])
