"""The model as the pipeline sees it: speech features in, faces with new mouths out.

Puts the networks of this family together. Knows neither clips nor segments.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from latentsync_ray.errors import CheckpointMismatch, ConfigError
from latentsync_ray.models import DType
from latentsync_ray.models.compiling import Compiling
from latentsync_ray.models.devices import device_named, dtype_named, precision_of, working_on
from latentsync_ray.models.find import find_model
from latentsync_ray.models.latentsync.audio import STEPS_PER_FRAME, step_indices, touched_windows
from latentsync_ray.models.latentsync.checkpoint import fill, load_unet
from latentsync_ray.models.latentsync.denoise import denoise, starting_noise
from latentsync_ray.models.latentsync.family import LatentSyncInfo
from latentsync_ray.models.latentsync.latents import Key, Latents, distinct, room
from latentsync_ray.models.latentsync.sampling import SamplingUNet
from latentsync_ray.models.latentsync.source import locate
from latentsync_ray.models.latentsync.specs import ModelSpec
from latentsync_ray.models.latentsync.synthetic import draw_weights
from latentsync_ray.models.latentsync.unet import LatentSyncUNet
from latentsync_ray.models.latentsync.vae import PictureCodec, as_pictures, build_small_vae, load_vae
from latentsync_ray.models.latentsync.whisper import build_encoder, load_encoder, speech_features
from latentsync_ray.models.mel import STEPS_PER_WINDOW, audio_step_count
from latentsync_ray.types import Device, Span

__all__ = ["LatentSync", "load", "load_model"]

_REMEMBERED_WINDOWS = 4
"""Whisper windows kept: neighbouring segments share their 30 s window, and a segment seldom touches more than two."""


class LatentSync:
    """See ``models.Model``."""

    def __init__(
        self, spec: ModelSpec, *, unet: LatentSyncUNet, whisper: WhisperEncoder, vae: AutoencoderKL, checkpoint: str
    ) -> None:
        if unet.options.audio and unet.options.audio_width != whisper.config.d_model:
            raise CheckpointMismatch(
                f"{spec.name}: the UNet listens to speech of width {unet.options.audio_width}, Whisper gives "
                f"{whisper.config.d_model} (384 is Whisper tiny, 768 Whisper small)"
            )
        self.info = LatentSyncInfo(spec)
        self.resolution = spec.resolution
        self.checkpoint = checkpoint
        self.unet, self.sampler = unet, SamplingUNet(unet)
        # A tenth faster on a CPU; the order of channels in memory changes no shape.
        layout = torch.channels_last if unet.device.type == "cpu" else torch.contiguous_format
        self.codec = PictureCodec(vae.to(memory_format=layout), spec.resolution)  # pyright: ignore[reportCallIssue]
        self.mask = torch.tensor(self.info.template.keep, device=unet.device)
        self.whisper = whisper
        self.device = unet.device
        self.dtype = unet.dtype
        self.latents = Latents(room())
        self._spared: list[int] = []
        self._compiling: Compiling | None = None
        self._heard: OrderedDict[bytes, Tensor] = OrderedDict()
        self._drawn: tuple[tuple[int, int, int], Tensor] | None = None

    @property
    def precision(self) -> str:
        """See ``models.Model``."""
        compiled = self._compiling is not None and self._compiling.works
        return precision_of(self.device, self.dtype) + (" compiled" if compiled else "")

    @property
    def spared(self) -> list[int]:
        """See ``models.Model``: what it takes to encode pictures that were known, or seen in an earlier window of the call."""
        return [pictures * self.info.encoding_flops for pictures in self._spared]

    def compile(self) -> None:
        """See ``models.Model``: the UNet's layers, and both halves of the autoencoder."""
        self._compiling = Compiling()
        self.sampler.compile(self._compiling)
        self.codec.compile(self._compiling)

    def listen(self, speech: NDArray[np.float32], span: Span) -> Tensor:
        """Speech of each frame (F, 10 * layers, D); ``speech`` (K, 80, 3000) is the log-mel of the windows that they touch."""
        steps = audio_step_count(span.samples)
        windows = touched_windows(span.start, span.stop, span.fps, steps)
        features = torch.cat([self._window_features(window) for window in speech])
        return self.audio_tokens(features, windows.start, step_indices(span.start, span.stop, span.fps, steps))

    def _window_features(self, window: NDArray[np.float32]) -> Tensor:
        key = blake2b(np.ascontiguousarray(window).data, digest_size=16).digest()
        if key not in self._heard:
            self._heard[key] = self.features(window[None].copy())  # rows of a Ray block cannot be written to, and torch warns
            while len(self._heard) > _REMEMBERED_WINDOWS:
                self._heard.popitem(last=False)
        self._heard.move_to_end(key)
        return self._heard[key]

    @torch.inference_mode()
    def features(self, mel: NDArray[np.float32]) -> Tensor:
        """Speech features (K * 1500, layers, D) of K consecutive 30 s windows (K, 80, 3000)."""
        with self._working(windows=1):
            return torch.cat([speech_features(self.whisper, torch.tensor(window, device=self.device)) for window in mel])

    def audio_tokens(self, features: Tensor, first_window: int, indices: NDArray[np.int32]) -> Tensor:
        """Speech of each frame (F, 10 * layers, D): the clip's steps ``indices`` (F, 10), all layers of a step together.

        ``features`` start at the clip's window ``first_window``. Raises ValueError when they do not hold the steps.
        """
        steps = indices - first_window * STEPS_PER_WINDOW
        if steps.size and not 0 <= steps.min() <= steps.max() < len(features):
            raise ValueError(f"steps {indices.min()} to {indices.max()} are not in {len(features)} from window {first_window}")
        return features[torch.from_numpy(steps).long().to(features.device)].flatten(1, 2)

    def silence(self, windows: int) -> Tensor:
        """Zeros (windows, 16, 10 * layers, D), as guidance has it."""
        listener = self.whisper.config
        tokens = STEPS_PER_FRAME * (listener.encoder_layers + 1)
        return torch.zeros(windows, self.info.window, tokens, listener.d_model, device=self.device)

    @torch.inference_mode()
    def generate(
        self,
        faces: NDArray[np.uint8],
        speech: Tensor,
        *,
        steps: int,
        guidance_scale: float,
        seed: int,
        cache_interval: int = 1,
    ) -> Tensor:
        """See ``models.Model``; ``speech`` is (B, F, S, D), and windows may hold any number F of frames."""
        side = self.resolution
        if faces.shape != (*speech.shape[:2], side, side, 3):
            raise ValueError(f"faces {faces.shape} at {side} px and speech {tuple(speech.shape)} do not match")
        windows, frames = faces.shape[:2]
        with self._working(windows=windows):
            shown = faces.reshape(-1, side, side, 3)
            hashes, first, places = distinct(shown)
            pictures = as_pictures(shown[first] if len(first) < len(shown) else shown, self.device)
            encoded, new = self._remembered(pictures, hashes)
            self._spared = (frames - np.bincount(np.array(first)[new] // frames, minlength=windows)).tolist()
            return self.draw(
                pictures,
                torch.tensor(places).to(self.device).unflatten(0, (windows, frames)),
                speech,
                steps=steps,
                guidance_scale=guidance_scale,
                seed=seed,
                cache_interval=cache_interval,
                encoded=encoded,
            )

    @torch.inference_mode()
    def draw(
        self,
        pictures: Tensor,
        places: Tensor,
        speech: Tensor,
        *,
        steps: int,
        guidance_scale: float,
        seed: int,
        cache_interval: int = 1,
        encoded: Tensor | None = None,
    ) -> Tensor:
        """``generate`` of ``pictures`` (N, 3, R, R), of which the windows hold those at ``places`` (B, F).

        ``encoded`` is what ``encode`` gave for them, if it was asked before.
        """
        conditions = self._conditions(pictures, encoded)[places].transpose(1, 2)
        *_, latents = denoise(
            self.sampler,
            self._noise(seed, *conditions.shape[-2:]),
            conditions=conditions,
            speech=speech,
            steps=steps,
            guidance_scale=guidance_scale,
            cache_interval=cache_interval,
        )
        decoded = self.codec.decode(latents.transpose(1, 2).flatten(0, 1))
        blended = decoded * (1.0 - self.mask) + pictures[places.flatten()] * self.mask
        return blended.unflatten(0, places.shape).permute(0, 1, 3, 4, 2)

    @torch.inference_mode()
    def reconstruct(self, faces: NDArray[np.uint8]) -> Tensor:
        """``faces`` (N, R, R, 3) through the autoencoder alone, the best that the model can draw: RGB about [-1, 1]."""
        with self._working(windows=1):
            return self.codec.decode(self.codec.encode(as_pictures(faces, self.device))).permute(0, 2, 3, 1)

    def _noise(self, seed: int, height: int, width: int) -> Tensor:
        if self._drawn is None or self._drawn[0] != (seed, height, width):
            self._drawn = (seed, height, width), starting_noise(seed, height, width).to(self.device)
        return self._drawn[1]

    def encode(self, pictures: Tensor) -> Tensor:
        """Of each picture (N, 3, R, R) in [-1, 1], masked and whole, what the autoencoder makes: (N, 8, h, w) in its format."""
        return torch.cat(self.codec.modes(torch.cat([pictures * self.mask, pictures])).chunk(2), dim=1)

    def _remembered(self, pictures: Tensor, hashes: Sequence[bytes]) -> tuple[Tensor, list[int]]:
        """What ``encode`` gives, and for which pictures it was asked: those that are not remembered."""
        keys: list[Key] = [(self.precision, each) for each in hashes]
        known = self.latents.find(keys)
        new = [number for number, key in enumerate(keys) if key not in known]
        if not new:
            return torch.stack([known[key] for key in keys]).to(self.device), new
        made = self.encode(pictures[new] if known else pictures)
        self.latents.keep([(self.precision, hashes[number]) for number in new], made)  # it may not be compiled any more
        if not known:
            return made, new
        encoded = made.new_empty(len(keys), *made.shape[1:])
        old = [number for number, key in enumerate(keys) if key in known]
        encoded[new], encoded[old] = made, torch.stack([known[keys[number]] for number in old]).to(self.device)
        return encoded, new

    def _conditions(self, pictures: Tensor, encoded: Tensor | None = None) -> Tensor:
        """What the network sees of each picture (N, 3, R, R) besides noise: mask, masked and whole picture (N, 9, h, w)."""
        shrunk = self.mask[:: self.codec.stride, :: self.codec.stride].expand(len(pictures), 1, -1, -1)
        return torch.cat([shrunk, self.codec.scaled(self.encode(pictures) if encoded is None else encoded)], dim=1)

    def _working(self, *, windows: int) -> AbstractContextManager[None]:
        return working_on(self.device, self.info.name, f"at {self.resolution} px with {windows} windows at once")


def load_model(name: str, *, device: Device = "auto", dtype: DType = "auto") -> LatentSync:
    """The LatentSync model of that name (see ``MODELS``), or in that folder or URI, ready to use.

    Raises as ``find_model`` and ``load``, and ConfigError for a model of another family.
    """
    info = find_model(name)
    if not isinstance(info, LatentSyncInfo):
        raise ConfigError(f"{name} is no LatentSync model")
    return info.load(device=device, dtype=dtype)


def load(spec: ModelSpec, *, device: Device = "auto", dtype: DType = "auto") -> LatentSync:
    """A model, ready to use.

    Raises WeightsNotFound when files are missing, CheckpointMismatch when they hold something else, ModelError when the device
    is not there.
    """
    where = device_named(device)
    precision = dtype_named(dtype, where)
    if not spec.source:
        return _drawn(spec, where, precision)
    files = locate(spec)
    return LatentSync(
        spec,
        unet=load_unet(files.unet, spec.unet, device=where, dtype=precision),
        whisper=load_encoder(files.whisper, files.whisper_config, device=where),
        # In the model's own format, float16 too: the official code runs this VAE so, and it stays in range.
        vae=load_vae(files.vae, files.vae_config, device=where, dtype=precision),
        checkpoint=files.digest(),
    )


def _drawn(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> LatentSync:
    """A small model whose weights come from the spec's seed."""
    here = Path(spec.name)
    with torch.device("meta"):
        unet, whisper, vae = LatentSyncUNet(spec.unet), build_encoder(spec.whisper), build_small_vae()
    return LatentSync(
        spec,
        unet=fill(unet, draw_weights(unet, spec.seed), path=here, device=device, dtype=dtype),
        whisper=fill(whisper, draw_weights(whisper, spec.seed), path=here, device=device, dtype=torch.float32),
        vae=fill(vae, draw_weights(vae, spec.seed), path=here, device=device, dtype=dtype),
        checkpoint=hashlib.sha256(repr(spec).encode()).hexdigest(),
    )
