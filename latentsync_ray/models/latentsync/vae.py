"""Pictures to latents and back, a few pictures at a time.

Knows diffusers' ``AutoencoderKL`` and its files. The latent of a picture is the mode of its distribution: no noise is drawn, so
a frame's latent depends on nothing but the frame.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from latentsync_ray.models.compiling import Compiling
from latentsync_ray.models.latentsync.checkpoint import fill, read_checkpoint
from latentsync_ray.models.latentsync.norms import LastNorm

__all__ = ["PictureCodec", "as_pictures", "build_small_vae", "load_vae"]

_LEGACY_ATTENTION = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))
"""Stable Diffusion's own VAEs, sd-vae-ft-mse among them, were published with these names."""

_SLICE_PIXELS = 4 * 512 * 512
_SLICE_PICTURES = 16
_CPU_PIXELS = 4 * 128 * 128
"""More at once, and a CPU waits for its memory: glibc returns blocks above 32 MB to the system each time."""


def load_vae(path: Path, config: Path, *, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    """The autoencoder in diffusers' layout. Raises CheckpointMismatch, naming the keys, unless the file holds exactly it."""
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(json.loads(config.read_text(encoding="utf-8")))
    assert isinstance(vae, AutoencoderKL)
    weights = {}
    for name, tensor in read_checkpoint(path).items():
        for legacy, current in _LEGACY_ATTENTION:
            name = name.replace(legacy, current)
        weights[name] = tensor
    return fill(vae, weights, path=path, device=device, dtype=dtype)


def build_small_vae(widths: tuple[int, int, int, int] = (8, 8, 16, 16)) -> AutoencoderKL:
    """An autoencoder of the usual make, three halvings and 4 latent channels, with few weights: ``widths`` by level."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        block_out_channels=widths,  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        norm_num_groups=8,
    )


def as_pictures(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """RGB pixels (N, R, R, 3) as the networks see them: float32 (N, 3, R, R) in [-1, 1]."""
    return torch.tensor(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0


class PictureCodec:
    """Encodes and decodes pictures of one side length, in parts of fixed sizes that bound the memory."""

    def __init__(self, vae: AutoencoderKL, resolution: int) -> None:
        self.vae = vae
        if vae.device.type == "cpu":  # torch's own loses digits where channels come last in memory: latents were 4e-4 off
            for module in [*vae.encoder.modules()]:
                for name, child in [*module.named_children()]:
                    if isinstance(child, nn.GroupNorm) and not isinstance(module, LastNorm):
                        setattr(module, name, LastNorm(child))
        for module in vae.modules():
            if isinstance(module, ResnetBlock2D):
                module.forward = partial(_resnet, module)  # pyright: ignore[reportAttributeAccessIssue]
        self.stride = 2 ** (len(vae.config["block_out_channels"]) - 1)
        """Pixels per latent pixel."""
        self._slice = max(1, min(_SLICE_PICTURES, _SLICE_PIXELS // resolution**2))
        self._part = max(1, min(self._slice, _CPU_PIXELS // resolution**2)) if vae.device.type == "cpu" else self._slice
        self._scale: float = vae.config["scaling_factor"]
        self._shift: float = vae.config.get("shift_factor") or 0.0

    def compile(self, compiling: Compiling) -> None:
        """Run both halves compiled."""
        for half in (self.vae.encoder, self.vae.decoder):
            half.forward = compiling(type(half).forward.__get__(half))  # not what was compiled before

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (N, 4, h, w), float32 of about unit variance, of pictures (N, 3, R, R) in [-1, 1]."""
        return self.scaled(self.modes(pictures))

    def modes(self, pictures: Tensor) -> Tensor:
        """Latents before they are ``scaled``, in the autoencoder's own format."""
        moments = _in_parts(self.vae.encoder, pictures.to(self.vae.dtype), self._part)
        if self.vae.quant_conv is not None:
            moments = _in_parts(self.vae.quant_conv, moments, self._slice)
        return moments.chunk(2, dim=1)[0]

    def scaled(self, modes: Tensor) -> Tensor:
        """Latents of about unit variance, float32."""
        return (modes.float() - self._shift) * self._scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, R, R), float32, about [-1, 1] but not clamped, of latents (N, 4, h, w)."""
        hidden = (latents / self._scale + self._shift).to(self.vae.dtype)
        if self.vae.post_quant_conv is not None:
            hidden = _in_parts(self.vae.post_quant_conv, hidden, self._slice)
        return _in_parts(self.vae.decoder, hidden, self._part).float()


def _resnet(resnet: Any, pictures: Tensor, temb: None) -> Tensor:
    """The autoencoder's resnet as diffusers has it, bit for bit, but in place: no timestep, and no division by one."""
    hidden = resnet.conv1(functional.silu(resnet.norm1(pictures), inplace=True))
    hidden = resnet.conv2(functional.silu(resnet.norm2(hidden), inplace=True))
    return hidden.add_(pictures if resnet.conv_shortcut is None else resnet.conv_shortcut(pictures))


def _in_parts(network: nn.Module, whole: Tensor, size: int) -> Tensor:
    """What ``network`` makes of parts of one size, the last filled up: another shape of the batch would change last bits."""
    missing = -len(whole) % size
    filled = torch.cat([whole, whole[-1:].expand(missing, -1, -1, -1)]) if missing else whole
    return torch.cat([network(part) for part in filled.split(size)])[: len(whole)]
