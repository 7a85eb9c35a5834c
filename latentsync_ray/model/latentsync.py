"""The model as the pipeline sees it: speech features in, faces with new mouths out.

Puts the networks of this package together, and knows devices, number formats and what their failures mean. Knows neither clips
nor segments.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from latentsync_ray.errors import CheckpointMismatch, DeviceLost, ModelError, NotFinite, OutOfMemory
from latentsync_ray.model.audio import STEPS_PER_FRAME
from latentsync_ray.model.checkpoint import fill, load_unet
from latentsync_ray.model.denoise import denoise, starting_noise
from latentsync_ray.model.mel import STEPS_PER_WINDOW
from latentsync_ray.model.source import find_spec, locate
from latentsync_ray.model.specs import ModelSpec
from latentsync_ray.model.synthetic import draw_weights
from latentsync_ray.model.unet import LatentSyncUNet
from latentsync_ray.model.vae import PictureCodec, as_pictures, build_small_vae, load_vae
from latentsync_ray.model.whisper import build_encoder, load_encoder, speech_features
from latentsync_ray.types import Device

__all__ = ["DType", "LatentSync", "load_model"]

DType = Literal["auto", "float32", "float16", "bfloat16"]

_NO_MEMORY = ("out of memory", "can't allocate memory")
_LOST = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "device-side assert")


class LatentSync:
    """One model on one device. Gives the same bits for the same call, on the same device and software."""

    def __init__(
        self, spec: ModelSpec, *, unet: LatentSyncUNet, whisper: WhisperEncoder, vae: AutoencoderKL, checkpoint: str
    ) -> None:
        if unet.options.audio and unet.options.audio_width != whisper.config.d_model:
            raise CheckpointMismatch(
                f"{spec.name}: the UNet listens to speech of width {unet.options.audio_width}, Whisper gives "
                f"{whisper.config.d_model} (384 is Whisper tiny, 768 Whisper small)"
            )
        self.spec = spec
        self.resolution = spec.resolution
        self.checkpoint = checkpoint
        """Hash of all weights, hex."""
        # A tenth faster on a CPU; the order of channels in memory changes no shape.
        layout = torch.channels_last if unet.device.type == "cpu" else torch.contiguous_format
        self.unet = unet.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        self.codec = PictureCodec(vae.to(memory_format=layout), spec.resolution)  # pyright: ignore[reportCallIssue]
        self.whisper = whisper
        self.device = unet.device
        self.dtype = unet.dtype
        self.precision = f"{_kind_of(self.device)} {str(self.dtype).removeprefix('torch.')}"
        """What its bits depend on, besides its weights: e.g. ``cuda sm_90 x132 bfloat16``, ``cpu float32``."""

    @torch.inference_mode()
    def features(self, mel: NDArray[np.float32]) -> Tensor:
        """Speech features (K * 1500, layers, D) of K consecutive 30 s windows (K, 80, 3000)."""
        with self._device(windows=1):
            return torch.cat([speech_features(self.whisper, torch.tensor(window, device=self.device)) for window in mel])

    def audio_tokens(self, features: Tensor, first_window: int, indices: NDArray[np.int32]) -> Tensor:
        """Speech of each frame (F, 10 * layers, D): the clip's steps ``indices`` (F, 10), all layers of a step together.

        ``features`` start at the clip's window ``first_window``. Raises ValueError when they do not hold the steps.
        """
        steps = indices - first_window * STEPS_PER_WINDOW
        if steps.size and not 0 <= steps.min() <= steps.max() < len(features):
            raise ValueError(f"steps {indices.min()} to {indices.max()} are not in {len(features)} from window {first_window}")
        return features[torch.from_numpy(steps).long().to(features.device)].flatten(1, 2)

    def silence(self, windows: int, frames: int) -> Tensor:
        """What ``generate`` takes for no speech at all, (windows, frames, 10 * layers, D) zeros."""
        listener = self.whisper.config
        return torch.zeros(
            windows, frames, STEPS_PER_FRAME * (listener.encoder_layers + 1), listener.d_model, device=self.device
        )

    @torch.inference_mode()
    def generate(
        self,
        faces: NDArray[np.uint8],
        audio: Tensor,
        keep: NDArray[np.float32],
        *,
        steps: int,
        guidance_scale: float,
        seed: int,
    ) -> NDArray[np.float32]:
        """New faces (B, F, R, R, 3), RGB about [-1, 1] but not clamped, of B independent windows of F frames.

        ``faces`` (B, F, R, R, 3) are aligned RGB pictures, ``audio`` (B, F, S, D) the speech of each frame and ``keep`` (R, R)
        what stays: 1 keeps the picture, 0 generates. Raises OutOfMemory when the device's memory does not suffice, NotFinite
        when numbers overflow, DeviceLost when the device is gone.
        """
        side = self.resolution
        if faces.shape != (*audio.shape[:2], side, side, 3) or keep.shape != (side, side):
            raise ValueError(f"faces {faces.shape}, audio {tuple(audio.shape)} and keep {keep.shape} at {side} px do not match")
        windows, frames = faces.shape[:2]
        with self._device(windows=windows):
            pictures = as_pictures(faces.reshape(-1, side, side, 3), self.device)
            mask = torch.tensor(keep, device=self.device)
            conditions = self._conditions(pictures, mask).unflatten(0, (windows, frames)).transpose(1, 2)
            noise = starting_noise(seed, *conditions.shape[-2:]).to(self.device)
            *_, latents = denoise(
                self.unet, noise, conditions=conditions, speech=audio, steps=steps, guidance_scale=guidance_scale
            )
            decoded = self.codec.decode(latents.transpose(1, 2).flatten(0, 1))
            blended = decoded * (1.0 - mask) + pictures * mask
            result = blended.permute(0, 2, 3, 1).reshape(faces.shape).cpu().numpy()
        if not np.isfinite(result).all():
            precision = str(self.dtype).removeprefix("torch.")
            raise NotFinite(f"{self.spec.name} gave numbers that are not finite in {precision}; set recipe.dtype=float32")
        return result

    @torch.inference_mode()
    def reconstruct(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``faces`` (N, R, R, 3) through the autoencoder alone, the best that the model can draw: RGB about [-1, 1]."""
        with self._device(windows=1):
            decoded = self.codec.decode(self.codec.encode(as_pictures(faces, self.device)))
            return decoded.permute(0, 2, 3, 1).cpu().numpy()

    def _conditions(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """What the network sees of each picture (N, 3, R, R) besides noise: mask, masked and whole picture (N, 9, h, w)."""
        masked, whole = self.codec.encode(pictures * mask), self.codec.encode(pictures)
        shrunk = mask[:: self.codec.stride, :: self.codec.stride].expand(len(pictures), 1, -1, -1)
        return torch.cat([shrunk, masked, whole], dim=1)

    @contextlib.contextmanager
    def _device(self, *, windows: int) -> Iterator[None]:
        """Reproducible arithmetic, and the device's failures as ours."""
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
        except RuntimeError as error:
            text = str(error)
            if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _NO_MEMORY):
                raise OutOfMemory(
                    f"{self.spec.name} at {self.resolution} px with {windows} windows at once does not fit {self.device}'s "
                    "memory; lower recipe.micro_batch or guidance_scale (above 1 it takes twice the memory), or take a device "
                    "with more memory"
                ) from error
            if type(error).__name__ == "AcceleratorError" or any(sign in text for sign in _LOST):
                raise DeviceLost(f"{self.device} failed: {text.partition(chr(10))[0]}") from error
            raise


def load_model(name: str, *, device: Device = "auto", dtype: DType = "auto") -> LatentSync:
    """The model of that name (see ``MODELS``), or in that folder or URI, ready to use.

    Raises WeightsNotFound when files are missing, CheckpointMismatch when they hold something else, ModelError when the device
    is not there.
    """
    spec, where = find_spec(name), _device_named(device)
    precision = _dtype_named(dtype, where)
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


def _device_named(device: Device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    elif (device == "cuda" and not torch.cuda.is_available()) or (device == "mps" and not torch.backends.mps.is_available()):
        raise ModelError(f"there is no {device} device on this machine; as the device, choose auto or cpu")
    return torch.device(device)


def _kind_of(device: torch.device) -> str:
    """Which device it is, as far as results depend on that: of a GPU its generation and size, whatever it is sold as."""
    if device.type != "cuda":
        return device.type
    facts = torch.cuda.get_device_properties(device)
    return f"cuda sm_{facts.major}{facts.minor} x{facts.multi_processor_count}"


def _dtype_named(dtype: DType, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type == "cpu":
        return torch.float32
    # Devices before Ampere emulate bfloat16, slowly.
    modern = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if modern else torch.float16
