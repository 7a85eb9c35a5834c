"""LatentSync as the stages know it before its weights are read: a ``ModelInfo`` for each of its models. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentsync_ray.models import DType, ModelRow
from latentsync_ray.models.hub import HUB, size
from latentsync_ray.models.latentsync.audio import touched_windows
from latentsync_ray.models.latentsync.remedies import by_hand, download_command, incomplete_folder, published_bytes
from latentsync_ray.models.latentsync.source import HINT, check_reachable, find_spec, locate, models_folder, survey
from latentsync_ray.models.latentsync.specs import MODELS, WINDOW, Flops, ModelSpec
from latentsync_ray.models.latentsync.template import template
from latentsync_ray.models.mel import audio_step_count, mel_window
from latentsync_ray.template import Template
from latentsync_ray.types import Device, Span

if TYPE_CHECKING:
    from latentsync_ray.models.latentsync.model import LatentSync

__all__ = ["LATENTSYNC", "LatentSyncInfo"]


@dataclass(frozen=True)
class LatentSyncInfo:
    """See ``models.ModelInfo``."""

    spec: ModelSpec
    window = WINDOW

    @property
    def name(self) -> str:
        """Of the model, or its folder or URI."""
        return self.spec.name

    @property
    def note(self) -> str:
        """What the command line tells whenever the model is used."""
        return self.spec.note

    @property
    def template(self) -> Template:
        """Depends on the resolution only."""
        return template(self.spec.resolution)

    def hear(self, samples: np.ndarray, span: Span) -> np.ndarray:
        """Normalised log-mel (K, 80, 3000) of the 30 s windows of Whisper that the span touches."""
        windows = touched_windows(span.start, span.stop, span.fps, audio_step_count(span.samples))
        return np.stack([mel_window(samples, window, span.peak) for window in windows])

    def fetch(self, *, say: Callable[[str], None] | None = None, bar: bool = False) -> None:
        """See ``models.ModelInfo``; a folder that lacks files is left as it is."""
        if self.spec.source:
            locate(self.spec, say=say, bar=bar)

    def complete(self, *, say: Callable[[str], None]) -> list[str]:
        """See ``models.ModelInfo``; what is published with a hash is held against it."""
        if not self.spec.source:
            return ["needs no files"]
        files = locate(self.spec, say=say, bar=True, complete=True)
        digest, verified = files.digest(), ", ".join(files.published)
        return [str(files.unet.parent), f"checkpoint {digest}" + (f"; as published: {verified}" if verified else "")]

    def check_elsewhere(self, *, say: Callable[[str], None]) -> None:
        """See ``models.ModelInfo``."""
        spec = self.spec
        if spec.source and not check_reachable(spec) and spec.source.startswith(HUB):
            known = published_bytes(spec.source) + published_bytes(spec.vae)
            say(f"nodes that do not have {spec.name} download it{f', {size(known)},' if known else ''} before their first clip")

    def describe(self) -> ModelRow:
        """See ``models.ModelInfo``."""
        spec = self.spec
        if not spec.source:
            return ModelRow(spec.name, spec.resolution, spec.licences, found="needs no files")
        found, folder = survey(spec), str(models_folder() / spec.name)
        incomplete = incomplete_folder(spec, found.place, present=found.present, missing=found.missing) if found.missing else ""
        left = 0 if found.model else published_bytes(spec.source, found.missing or None)
        return ModelRow(
            spec.name,
            spec.resolution,
            spec.licences,
            found=str(Path(found.model["unet"]).parent) if found.complete else "",
            incomplete=incomplete,
            download_bytes=left + (0 if found.vae else published_bytes(spec.vae)),
            command="" if found.complete or not spec.source.startswith(HUB) else download_command(spec),
            by_hand=[] if found.complete or incomplete else by_hand(spec, folder, model=not found.model, vae=not found.vae),
        )

    def flops(self, *, steps: int, guidance_scale: float, cache_interval: int) -> int:
        """See ``models.ModelInfo``; of models with a name it is known already."""
        return self._flops(guided=guidance_scale > 1).of(steps=steps, cache_interval=cache_interval)

    @property
    def encoding_flops(self) -> int:
        """Of those, what it takes to encode one frame's picture, masked and whole."""
        return self._flops(guided=False).encoding // WINDOW

    def _flops(self, *, guided: bool) -> Flops:
        if self.spec.flops is not None:
            return self.spec.flops[guided]
        from latentsync_ray.models.latentsync.counting import count_flops

        return count_flops(self.spec, guided=guided)

    def memory(self, *, windows: int, guidance_scale: float, dtype: DType) -> int:
        """See ``models.ModelInfo``; of tensors only: what libraries work with, and gaps between tensors, are not seen."""
        from latentsync_ray.models.latentsync.counting import memory_of

        return memory_of(self.spec, windows=windows, guided=guidance_scale > 1, dtype=dtype)

    def load(self, *, device: Device = "auto", dtype: DType = "auto") -> LatentSync:
        """See ``models.ModelInfo``."""
        from latentsync_ray.models.latentsync.model import load

        return load(self.spec, device=device, dtype=dtype)


class _LatentSync:
    """See ``models.Family``."""

    hint = HINT

    @property
    def names(self) -> Iterable[str]:
        """Versions of LatentSync, and the small models of this package."""
        return MODELS

    def find(self, name: str) -> LatentSyncInfo | None:
        """See ``models.Family``."""
        spec = find_spec(name)
        return spec and LatentSyncInfo(spec)


LATENTSYNC = _LatentSync()
