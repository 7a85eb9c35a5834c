"""Generate: the GPU stage. New mouths for one segment, window by window.

A window is as many consecutive output frames as the model sees together (LatentSync: 16), on the clip's own grid; the last one
is shifted back to end with the clip, so that every window holds real frames only and has one static shape. Each face has its
own windows. Knows nothing of files or frames, only crops and what is heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from latentsync_ray.config import Recipe
from latentsync_ray.errors import ClipError, ModelError, NotFinite, OutOfMemory
from latentsync_ray.levels import to_codes, to_uint8
from latentsync_ray.measure import mouth_motion
from latentsync_ray.models import Model, ModelInfo
from latentsync_ray.models.find import find_model
from latentsync_ray.models.fitting import windows_together
from latentsync_ray.stages.forwards import Drawn, Forwards, Window
from latentsync_ray.types import Device, FaceCrops, GeneratedFaces

__all__ = ["Generate", "fill_gaps", "window_frames"]


class Generate:
    """``Generate(recipe, device)(crops) -> GeneratedFaces`` with a model that stays loaded.

    ``memory`` are the bytes that it may take on its device; by default a ``share`` of all. Raises ModelError when they will not
    suffice, before the model is loaded.

    May be called from several threads: their windows share the model's calls (``forwards``).
    """

    def __init__(
        self,
        recipe: Recipe,
        device: Device = "auto",
        *,
        model: Model | None = None,
        memory: float | None = None,
        share: float = 1.0,
    ) -> None:
        import torch

        from latentsync_ray.models.devices import device_named, memory_of

        where = model.device if model else device_named(device)
        info = model.info if model else find_model(recipe.model)
        if memory is None and (whole := memory_of(where)) is not None:
            memory = share * whole
        self.recipe, self.micro_batch = recipe, windows_together(info, recipe, where.type, memory)
        self.model = model or info.load(device=device, dtype=recipe.dtype)
        self.window = self.model.info.window
        self._flops = {guided: self._flops_of(info, guidance_scale=1.0 + guided) for guided in (False, True)}
        self._bytes = to_codes if recipe.paste == "crop" else to_uint8
        self._forwards = Forwards(self._drawn, self.micro_batch)
        if self.model.device.type == "cpu":
            torch.set_num_threads(recipe.cpu_threads)
        if recipe.compile:
            self.model.compile()
            self._check_model(NotFinite, OutOfMemory)  # compiles
            self.rest()

    def __call__(self, crops: FaceCrops, *, on_frames: Callable[[int], None] | None = None) -> GeneratedFaces:
        """``on_frames(count)`` hears of new faces window by window; what it raises ends the work.

        Raises NotFinite or OutOfMemory for what this clip alone cannot have, ModelError when no clip can.
        """
        try:
            faces, made = self._dub(crops, on_frames) if len(crops.frames) else (crops.faces, {})
        except (NotFinite, OutOfMemory) as error:
            failure = type(error)(str(error))  # a new one: the frames of the first hold on to the device's memory
        else:
            failure = None
        if failure:
            self._check_model(type(failure))
            raise failure
        from latentsync_ray.models.devices import card_of

        model = self.model
        return GeneratedFaces.of(
            crops,
            faces=faces,
            mouth_motion=self._motion(crops, faces),
            checkpoint=model.checkpoint,
            precision=self.precision,
            micro_batch=self.micro_batch,
            card=card_of(model.device),
            **made,
        )

    def _flops_of(self, info: ModelInfo, *, guidance_scale: float) -> int | None:
        recipe = self.recipe
        flops = info.flops(steps=recipe.steps, guidance_scale=guidance_scale, cache_interval=recipe.cache_interval)
        if flops is not None and not (isinstance(flops, int) and 0 <= flops < 2**80):
            raise ModelError(f"the model {recipe.model!r} says that a window takes {flops!r} operations; its code has a bug")
        return flops

    @property
    def precision(self) -> str:
        """What bits depend on besides the recipe: on how many windows a call has, too."""
        return self.model.precision + (f", {self.micro_batch} windows" if self.micro_batch > 1 else "")

    def rest(self) -> None:
        """Nobody waits for the device from now on until there is work again."""
        self._forwards.clock.rest()

    def _dub(self, crops: FaceCrops, on_frames: Callable[[int], None] | None) -> tuple[np.ndarray, dict[str, Any]]:
        """The new faces, and what they took: columns of the row."""
        recipe = self.recipe
        with self._forwards.device() as listened:
            spoken = self.model.listen(crops.speech, crops.span)
        spent, spared = listened(), 0
        guidance = crops.guidance_scale or recipe.guidance_scale
        asked = guidance, recipe.seed if crops.seed is None else crops.seed
        # Later windows first, so that a frame shared with the shifted last window keeps the face of its regular window.
        frames = list(_windows(crops, self.window))[::-1]
        windows = [
            Window(partial(np.take, crops.faces, places[fill_gaps(window, places >= 0)], 0), spoken[window], asked)
            for window, places in frames
        ]
        result, told = np.zeros_like(crops.faces), 0
        for number, ((window, places), drawn) in enumerate(zip(frames, self._forwards(windows), strict=True), start=1):
            assert drawn.made is not None
            at, new = places[window[::-1]], drawn.made[::-1]  # of a repeated last frame, the first counts
            result[at[at >= 0]] = new[at >= 0]
            spent, spared, drawn.made = spent + drawn.spent, spared + drawn.spared, None
            if on_frames:
                done = min(self.window * number, len(crops.source_frames))  # several faces are one frame
                on_frames(done - told)
                told = done
        flops = self._flops[guidance > 1]
        return result, {
            "generate_seconds": spent.working,
            "idle_seconds": spent.idle,
            "tflop": float("nan") if flops is None else (flops * len(windows) - spared) / 1e12,
        }

    def _drawn(self, faces: np.ndarray, speech: Any, asked: tuple[float, int]) -> Drawn:
        """What the model makes of some windows, uint8; checked to be what models have to give."""
        import torch

        recipe, (guidance_scale, seed) = self.recipe, asked
        sampling = {"steps": recipe.steps, "seed": seed, "cache_interval": recipe.cache_interval}
        try:
            made = self.model.generate(faces, speech, guidance_scale=guidance_scale, **sampling)
        except OutOfMemory as error:
            failed = OutOfMemory(str(error))  # without the frames of the first, which hold the device's memory
            return [failed] * len(faces), [0] * len(faces)
        if not (isinstance(made, torch.Tensor) and made.dtype == torch.float32 and made.shape == faces.shape):
            got = f"{made.dtype}{tuple(made.shape)}" if hasattr(made, "dtype") else type(made).__name__
            raise ModelError(f"the model {self.recipe.model!r} gave {got}, and not float32{faces.shape}; its code has a bug")
        finite, drawn = made.isfinite().flatten(1).all(1), self._bytes(made).cpu()  # the device is waited for once
        failure = NotFinite(
            f"{recipe.model} gave numbers that are not finite ({self.model.precision}); set recipe.dtype=float32, and "
            "mixed_recipes=true to do so in the same output"
        )
        each = [new if fine else failure for new, fine in zip(drawn.numpy(), finite.tolist(), strict=True)]
        spared = getattr(self.model, "spared", [0] * len(faces))
        if len(spared) != len(faces):
            raise ModelError(
                f"the model {recipe.model!r} says of {len(spared)} windows what they were spared, and made {len(faces)}; "
                "its code has a bug"
            )
        return each, spared

    def _motion(self, crops: FaceCrops, faces: np.ndarray) -> np.ndarray:
        """How much the mouths move, float32 (F,): the mean of those that are known."""
        count = len(crops.source_frames)
        mouth = self.model.info.template.mouth
        each = [mouth_motion(faces, crops.places(track), mouth) for track in np.unique(crops.tracks).tolist()]
        motion = np.stack([np.full(count, np.nan, np.float32), *each])
        known = np.isfinite(motion)
        total = np.where(known, motion, 0).sum(0)
        return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan).astype(np.float32)

    def _check_model(self, *failures: type[ClipError]) -> None:
        """Raise ModelError when a grey picture that says nothing fails in one of these ways, by the recipe's own settings."""
        recipe, side = self.recipe, self.model.info.template.side
        try:
            grey = partial(np.full, (self.window, side, side, 3), 127, np.uint8)
            next(self._forwards([Window(grey, self.model.silence(1)[0], (recipe.guidance_scale, recipe.seed))]))
        except failures as error:
            raise ModelError(f"no clip can be dubbed: {error}") from error


def _windows(crops: FaceCrops, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The windows that show a face, track by track: frame indices (W,), and where each frame's face is in the pairs (F,)."""
    for track in np.unique(crops.tracks).tolist():
        places = crops.places(track)
        for window in window_frames(len(places), size):
            if (places[window] >= 0).any():
                yield window, places


def window_frames(frame_count: int, window: int) -> list[np.ndarray]:
    """The windows of a segment as frame indices int (W,) each: consecutive, the last one shifted back to end with the segment.

    A segment shorter than a window (only in a clip that is) repeats its last frame.
    """
    if frame_count <= window:
        return [np.minimum(np.arange(window), frame_count - 1)]
    starts = [*range(0, frame_count - window, window), frame_count - window]
    return [start + np.arange(window) for start in starts]


def fill_gaps(window: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The window's frame indices with each frame that has no face replaced by the nearest one in the window that has."""
    usable = window[found[window]]
    return usable[np.abs(usable[None, :] - window[:, None]).argmin(axis=1)]
