"""From noise to latents: DDIM with classifier-free guidance (Song et al., 2021; Ho & Salimans, 2022) and DeepCache.

Knows the sampler and how LatentSync's network is asked. Knows neither pictures nor speech encoders. Latents are float32
throughout, whatever the network computes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from latentsync_ray.models.latentsync.unet import LatentSyncUNet

__all__ = ["ddim", "denoise", "predict_noise", "starting_noise"]


def ddim(steps: int) -> DDIMScheduler:
    """The sampler that LatentSync was tuned with, set to ``steps`` steps (1 to 999)."""
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    if not 1 <= steps < scheduler.config["num_train_timesteps"]:  # the offset of 1 leaves no room for the 1000th
        raise ValueError(f"{steps} denoising steps: 1 to 999 are possible")
    scheduler.set_timesteps(steps)
    return scheduler


def denoise(
    unet: LatentSyncUNet,
    noise: Tensor,
    *,
    conditions: Tensor,
    speech: Tensor,
    steps: int,
    guidance_scale: float,
    cache_interval: int = 1,
) -> Iterator[Tensor]:
    """Yield the latents (B, 4, F, h, w) after each step; the last are clean.

    ``noise`` (1, 4, 1, h, w) is what every frame starts from. ``conditions`` (B, 9, F, h, w): mask, masked and reference
    picture. ``speech`` (B, F, S, D). Every ``cache_interval``-th step runs the whole network, from the first; the others take
    the features of the last that did.
    """
    scheduler, ask = ddim(steps), _Asked(unet, cache_interval)
    batch, _, frames, height, width = conditions.shape
    latents = noise.expand(batch, -1, frames, height, width)
    for timestep in scheduler.timesteps.tolist():
        predicted = predict_noise(ask, latents, timestep, conditions=conditions, speech=speech, guidance_scale=guidance_scale)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        yield latents


class _Network(Protocol):
    """What ``predict_noise`` asks: a ``LatentSyncUNet``, or what stands before one."""

    dtype: torch.dtype

    def __call__(self, sample: Tensor, timestep: int, audio: Tensor) -> Tensor: ...


class _Asked:
    """A network that is asked step after step, and whole only now and then."""

    def __init__(self, unet: LatentSyncUNet, interval: int) -> None:
        self._unet, self._interval, self._step = unet, interval, 0
        self._features: Tensor | None = None
        self.dtype = unet.dtype

    def __call__(self, sample: Tensor, timestep: int, audio: Tensor) -> Tensor:
        step, self._step = self._step, self._step + 1
        if self._interval == 1:
            return self._unet(sample, timestep, audio)
        if step % self._interval and self._features is not None:
            return self._unet.from_features(self._features, sample, timestep, audio)
        predicted, self._features = self._unet.with_features(sample, timestep, audio)
        return predicted


def predict_noise(
    unet: _Network, latents: Tensor, timestep: int, *, conditions: Tensor, speech: Tensor, guidance_scale: float
) -> Tensor:
    """The noise in ``latents``, pushed ``guidance_scale`` times as far from the prediction for no speech (all zeros).

    A scale of 1 is no push and asks the network once; the official code treats smaller ones alike.
    """
    sample = torch.cat([latents, conditions], dim=1).to(unet.dtype)
    speech = speech.to(unet.dtype)
    if guidance_scale <= 1:
        return unet(sample, timestep, speech).float()
    both = unet(sample.repeat(2, 1, 1, 1, 1), timestep, torch.cat([torch.zeros_like(speech), speech]))
    silent, spoken = both.float().chunk(2)
    return silent + guidance_scale * (spoken - silent)


def starting_noise(seed: int, height: int, width: int) -> Tensor:
    """Noise (1, 4, 1, height, width) of a seed, drawn on the CPU so that it is the same for every device and batch."""
    return torch.randn((1, 4, 1, height, width), generator=torch.Generator().manual_seed(seed))
