"""Generate: the GPU stage. New mouths for one segment, window by window: Whisper features, VAE, UNet, DDIM.

A window is 16 consecutive output frames on the clip's own grid; the last one is shifted back to end with the clip, so that
every window holds 16 real frames and has one static shape. Knows nothing of files or frames, only crops and log-mel.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from latentsync_ray.config import WINDOW, Recipe
from latentsync_ray.errors import ClipError, ModelError, NotFinite, OutOfMemory
from latentsync_ray.faces.mask import keep_mask
from latentsync_ray.measure import mouth_motion, speech_change
from latentsync_ray.model.audio import step_indices
from latentsync_ray.model.mel import STEPS_PER_WINDOW
from latentsync_ray.types import Device, FaceCrops, GeneratedFaces

if TYPE_CHECKING:
    import torch

    from latentsync_ray.model.latentsync import LatentSync

__all__ = ["Generate", "fill_gaps", "to_uint8", "window_frames"]

_REMEMBERED_WINDOWS = 4
"""Whisper windows kept: neighbouring segments share their 30 s window, and a segment seldom touches more than two."""


class Generate:
    """``Generate(recipe, device)(crops) -> GeneratedFaces`` with a model that stays loaded."""

    def __init__(self, recipe: Recipe, device: Device = "auto", *, model: LatentSync | None = None) -> None:
        import torch

        from latentsync_ray.model.latentsync import load_model

        self.recipe = recipe
        self.model = model or load_model(recipe.model, device=device, dtype=recipe.dtype)
        if self.model.device.type == "cpu":
            torch.set_num_threads(recipe.cpu_threads)
        self.keep = keep_mask(self.model.resolution)
        self._features: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def __call__(self, crops: FaceCrops, *, on_frames: Callable[[int], None] | None = None) -> GeneratedFaces:
        """``on_frames(count)`` hears of new faces after each micro-batch; what it raises ends the work.

        Raises NotFinite or OutOfMemory for what this clip alone cannot have, ModelError when no clip can.
        """
        began = time.perf_counter()
        try:
            faces = self._dub(crops, on_frames) if crops.found.any() else crops.faces
        except (NotFinite, OutOfMemory) as error:
            failure = type(error)(str(error))  # a new one: the frames of the first hold on to the device's memory
        else:
            failure = None
        if failure:
            self._check_model(type(failure))
            raise failure
        model = self.model
        return GeneratedFaces.of(
            crops,
            faces=faces,
            mouth_motion=mouth_motion(faces, crops.found),
            speech_change=_speech_change(crops),
            checkpoint=model.checkpoint,
            precision=model.precision,
            generate_seconds=time.perf_counter() - began,
        )

    def _dub(self, crops: FaceCrops, on_frames: Callable[[int], None] | None) -> np.ndarray:
        recipe = self.recipe
        indices = step_indices(crops.start, crops.stop, Fraction(crops.fps_num, crops.fps_den), crops.audio_steps)
        tokens = self.model.audio_tokens(self._listen(crops.mel), crops.first_window, indices)
        windows = [window for window in window_frames(len(crops.faces)) if crops.found[window].any()]
        result = crops.faces.copy()
        # Later windows first, so that a frame shared with the shifted last window keeps the face of its regular window.
        for first in reversed(range(0, len(windows), recipe.micro_batch)):
            batch = windows[first : first + recipe.micro_batch]
            padded = np.stack(batch + batch[-1:] * (recipe.micro_batch - len(batch)))
            shown = np.stack([fill_gaps(window, crops.found) for window in padded])
            generated = self.model.generate(
                crops.faces[shown],
                tokens[padded],
                self.keep,
                steps=recipe.steps,
                guidance_scale=crops.guidance_scale or recipe.guidance_scale,
                seed=recipe.seed if crops.seed is None else crops.seed,
            )
            for window, faces in reversed(list(zip(batch, generated, strict=False))):
                result[window[::-1]] = to_uint8(faces)[::-1]  # of a repeated last frame, the first counts
            if on_frames:
                on_frames(min(WINDOW * len(batch), len(result)))
        return result

    def _check_model(self, failure: type[ClipError]) -> None:
        """Raise ModelError when a grey picture that says nothing fails in the same way, by the recipe's own settings."""
        recipe, side = self.recipe, self.model.resolution
        try:
            self.model.generate(
                np.full((recipe.micro_batch, WINDOW, side, side, 3), 127, np.uint8),
                self.model.silence(recipe.micro_batch, WINDOW),
                self.keep,
                steps=recipe.steps,
                guidance_scale=recipe.guidance_scale,
                seed=recipe.seed,
            )
        except failure as error:
            raise ModelError(f"no clip can be dubbed: {error}") from error

    def _listen(self, mel: np.ndarray) -> torch.Tensor:
        import torch

        return torch.cat([self._window_features(window) for window in mel])

    def _window_features(self, window: np.ndarray) -> torch.Tensor:
        key = blake2b(np.ascontiguousarray(window).data, digest_size=16).digest()
        if key not in self._features:
            self._features[key] = self.model.features(
                window[None].copy()
            )  # rows of a Ray block cannot be written to, and torch warns
            while len(self._features) > _REMEMBERED_WINDOWS:
                self._features.popitem(last=False)
        self._features.move_to_end(key)
        return self._features[key]


def _speech_change(crops: FaceCrops) -> np.ndarray:
    fps, first_column = Fraction(crops.fps_num, crops.fps_den), 2 * STEPS_PER_WINDOW * crops.first_window
    mel = np.concatenate([np.zeros((80, 0), np.float32), *crops.mel], axis=1)
    heard = mel[:, : max(0, 2 * crops.audio_steps - first_column)]  # what follows is padding
    return speech_change(heard, first_column, crops.start, crops.start + len(crops.found), fps)


def window_frames(frame_count: int) -> list[np.ndarray]:
    """The windows of a segment as frame indices int (16,) each: consecutive, the last one shifted back to end with the segment.

    A segment shorter than a window (only in a clip that is) repeats its last frame.
    """
    if frame_count <= WINDOW:
        return [np.minimum(np.arange(WINDOW), frame_count - 1)]
    starts = [*range(0, frame_count - WINDOW, WINDOW), frame_count - WINDOW]
    return [start + np.arange(WINDOW) for start in starts]


def fill_gaps(window: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The window's frame indices with each frame that has no face replaced by the nearest one in the window that has."""
    usable = window[found[window]]
    return usable[np.abs(usable[None, :] - window[:, None]).argmin(axis=1)]


def to_uint8(faces: np.ndarray) -> np.ndarray:
    """[-1, 1] floats, not clamped, to grey levels."""
    return np.rint(np.clip(faces * 127.5 + 127.5, 0, 255)).astype(np.uint8)
