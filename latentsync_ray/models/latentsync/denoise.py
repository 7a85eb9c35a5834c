"""From noise to latents: DDIM with classifier-free guidance (Song et al., 2021; Ho & Salimans, 2022) and DeepCache.

Knows the sampler and how LatentSync's network is asked. Knows neither pictures nor speech encoders. Latents are float32
throughout, whatever the network computes in.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from latentsync_ray.models.latentsync.sampling import SamplingUNet

__all__ = ["ddim", "denoise", "pushed", "starting_noise"]


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
    unet: SamplingUNet,
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
    picture. ``speech`` (B, F, S, D). A ``guidance_scale`` of 1 is no push and asks for no prediction without speech; the
    official code treats smaller ones alike. Every ``cache_interval``-th step runs the whole network, from the first; the others
    take what its inner layers gave in the last that did.
    """
    scheduler, guided = ddim(steps), guidance_scale > 1
    question = unet.about(conditions, speech, timesteps=scheduler.timesteps, guided=guided)
    batch, _, frames, height, width = conditions.shape
    latents = noise.expand(batch, -1, frames, height, width)
    for step, timestep in enumerate(scheduler.timesteps.tolist()):
        answer = question(latents, step, reuse=step % cache_interval > 0).float()
        predicted = pushed(answer, guidance_scale) if guided else answer
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        yield latents


def pushed(both: Tensor, guidance_scale: float) -> Tensor:
    """The prediction for speech, ``guidance_scale`` times as far from the one for none: both (2 B, ...), none first."""
    silent, spoken = both.chunk(2)
    return silent + guidance_scale * (spoken - silent)


def starting_noise(seed: int, height: int, width: int) -> Tensor:
    """Noise (1, 4, 1, height, width) of a seed, drawn on the CPU so that it is the same for every device and batch."""
    return torch.randn((1, 4, 1, height, width), generator=torch.Generator().manual_seed(seed))
