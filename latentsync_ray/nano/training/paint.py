"""The picture autoencoder, trained on the faces of all scenes; and their latents, which is all that the last training sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentsync_ray.models.latentsync.mask import keep_mask
from latentsync_ray.models.latentsync.networks import AutoencoderKL, DiagonalGaussianDistribution
from latentsync_ray.models.latentsync.vae import PictureCodec, as_pictures
from latentsync_ray.nano.training.loop import train

__all__ = ["encode_scenes", "train_autoencoder"]

_BATCH = 8
_DIVERGENCE = 1e-4
"""Weight of the latents' divergence from a normal distribution: enough to keep them of one scale."""
_JITTER = 0.05
"""Noise on the latents in training, in their standard deviations: the decoder has to bear what the sampler leaves."""
_MOUTH = 3.0
"""How much more a pixel counts that the model repaints."""


def train_autoencoder(
    path: Path, network: AutoencoderKL, scenes: np.ndarray, *, steps: int, device: torch.device
) -> AutoencoderKL:
    """``network`` trained on ``scenes`` (N, M, 16, R, R, 3), its latents scaled to unit variance."""
    side = scenes.shape[-2]
    flat = scenes.reshape(-1, side, side, 3)
    weight = torch.from_numpy(1 + (_MOUTH - 1) * (1 - keep_mask(side))).to(device)

    codec: Any = network  # diffusers' own types leave open what its methods return

    def loss_of(draw: np.random.Generator) -> Tensor:
        pictures = as_pictures(flat[np.sort(draw.integers(0, len(flat), _BATCH))])
        # Other tints, so that it learns skin and lips rather than one skin.
        tint = 1 + 0.15 * torch.from_numpy(draw.standard_normal((_BATCH, 3, 1, 1)).astype(np.float32))
        pictures = ((pictures + 1) * tint - 1).clamp(-1, 1).to(device)
        with torch.autocast(device.type, torch.bfloat16):  # a quarter less time, and after 200 steps no worse
            moments = codec.encode(pictures).latent_dist.parameters
        distribution = DiagonalGaussianDistribution(moments.float())
        latents = distribution.sample()
        latents = latents + _JITTER * latents.detach().std() * torch.randn_like(latents)
        with torch.autocast(device.type, torch.bfloat16):
            painted = codec.decode(latents).sample
        error = painted.float() - pictures
        edges = (error.diff(dim=-1) * weight[:, 1:]).abs().mean() + (error.diff(dim=-2) * weight[1:]).abs().mean()
        divergence = distribution.kl().mean() / latents[0].numel()
        return (error.abs() * weight).mean() + (error.square() * weight).mean() + edges + _DIVERGENCE * divergence

    trained = train(path, network, loss_of, steps=steps, rate=1.5e-3, device=device)
    _scale(trained, as_pictures(flat[:: max(1, len(flat) // 256)]), weight.cpu() > 2)
    return trained


@torch.inference_mode()
def _scale(codec: Any, pictures: Tensor, repainted: Tensor) -> None:
    """Note in the configuration what brings latents to unit variance, and print how good the pictures are."""
    latents = torch.cat([codec.encode(part).latent_dist.mode() for part in pictures.split(16)])
    codec.register_to_config(scaling_factor=1 / float(latents.std()), shift_factor=float(latents.mean()))
    decoded = torch.cat([codec.decode(part).sample for part in latents.split(16)])
    error = (127.5 * (decoded.clamp(-1, 1) - pictures)).square()[..., repainted].mean()
    print(f"autoencoder: {10 * np.log10(255**2 / float(error)):.1f} dB where the model repaints", flush=True)


@torch.inference_mode()
def encode_scenes(path: Path, network: AutoencoderKL, scenes: np.ndarray) -> None:
    """Write latents of all faces, whole and masked, unless they are there: float16 (N, M, 2, 16, 4, h, w)."""
    if path.exists():
        return
    count, mouths, frames, side = scenes.shape[:4]
    codec, keep = PictureCodec(network, side), torch.from_numpy(keep_mask(side).copy())
    small = side // codec.stride
    latents = np.empty((count, mouths, 2, frames, 4, small, small), np.float16)
    for number, scene in enumerate(scenes):
        pictures = as_pictures(scene.reshape(-1, side, side, 3))
        for kind, shown in enumerate((pictures, pictures * keep)):
            latents[number, :, kind] = codec.encode(shown).numpy().reshape(mouths, frames, 4, small, small)
    draft = path.with_suffix(".draft.npy")
    np.save(draft, latents)
    draft.replace(path)
