"""The denoising network, trained as LatentSync samples: one noise for all frames of a window, guidance by zeroed speech.

What is filmed, masked and whole, comes with another mouth than what is wanted, as it does when a clip is dubbed. So do the
noisy latents, in part: in a few steps the sampler comes by with a mouth that is not yet right, and a network that only ever saw
the truth under its noise would believe it rather than listen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latentsync_ray.models.latentsync.denoise import ddim
from latentsync_ray.models.latentsync.mask import keep_mask
from latentsync_ray.models.latentsync.networks import WhisperEncoder
from latentsync_ray.models.latentsync.specs import WINDOW
from latentsync_ray.models.latentsync.unet import LatentSyncUNet
from latentsync_ray.nano.training.listen import hear
from latentsync_ray.nano.training.loop import train
from latentsync_ray.nano.training.pictures import MOUTHS, Scene
from latentsync_ray.nano.training.speech import Track
from latentsync_ray.nano.training.together import place

__all__ = ["hear_scenes", "train_unet"]

_BATCH = 4
"""Windows of a step, of all processes together."""
_UNHEARD = 0.12
"""Share of windows without speech, for classifier-free guidance."""
_KEPT = 0.1
"""How much a latent counts that the pipeline does not paste, against one that it does."""
_TINTS = ((1, 1.0), (4, 0.5))
"""Side and standard deviation of the coarse tints that are on the noisy latents besides: noise has no colour on average, so
whatever has one would be believed too.
"""
_STEEPEST = 8.0
"""Most that a noisy step counts: there, a small error of the noise is a large one of the picture."""


def hear_scenes(encoder: WhisperEncoder, scenes: Sequence[Scene], tracks: Sequence[Track]) -> Tensor:
    """The speech of all scenes' speaking mouths: (N, MOUTHS - 1, 16, 10 * (layers + 1), D)."""
    wanted: dict[int, list[tuple[int, int, int]]] = {}
    for number, scene in enumerate(scenes):
        for mouth, (track, frame) in enumerate(zip(scene.tracks.tolist(), scene.frames.tolist(), strict=True)):
            wanted.setdefault(track, []).append((number, mouth, frame))
    heard: dict[tuple[int, int], Tensor] = {}
    for track, uses in wanted.items():
        whole = hear(encoder, tracks[track], 0, len(tracks[track].curves))
        heard |= {(number, mouth): whole[frame : frame + WINDOW] for number, mouth, frame in uses}
    return torch.stack([torch.stack([heard[number, mouth] for mouth in range(MOUTHS - 1)]) for number in range(len(scenes))])


def train_unet(
    path: Path,
    network: LatentSyncUNet,
    latents: np.ndarray,
    speech: Tensor,
    *,
    side: int,
    steps: int,
    device: torch.device,
) -> LatentSyncUNet:
    """``network`` trained on the ``latents`` (N, MOUTHS, 2, 16, 4, h, w) and ``speech`` of all scenes; ``side`` in px.

    By AdamW: Muon is ahead for some hundred steps, and then behind it for good.
    """
    _start_still(network)
    keep = torch.from_numpy(keep_mask(side)[:: side // latents.shape[-1], :: side // latents.shape[-1]].copy())
    weight = (_KEPT + (1 - _KEPT) * (1 - keep)).to(device)
    signal = ddim(1).alphas_cumprod
    batch = _BATCH // place()[1]

    def loss_of(draw: np.random.Generator) -> Tensor:
        scenes = draw.integers(0, len(latents), batch)
        spoken = draw.integers(0, MOUTHS - 1, batch)
        filmed = (spoken + draw.integers(1, MOUTHS, batch)) % MOUTHS
        clean = _window(latents[scenes, spoken, 0])
        other = _window(latents[scenes, draw.integers(0, MOUTHS, batch), 0])
        whole, masked = _window(latents[scenes, filmed, 0]), _window(latents[scenes, filmed, 1])
        told = torch.from_numpy((draw.random(batch) > _UNHEARD).astype(np.float32))
        heard = speech[scenes, spoken] * told[:, None, None, None]
        timestep = torch.from_numpy(draw.integers(0, 1000, batch))
        alpha = signal[timestep][:, None, None, None, None]
        noise = torch.randn(batch, 4, 1, *keep.shape).expand_as(clean)
        wrong = torch.rand(batch, 1, 1, 1, 1) * (other - clean) + _tint(batch, keep.shape)
        noise = noise + (alpha / (1 - alpha)).sqrt().clamp(max=1) * wrong
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        sample = torch.cat([noisy, keep.expand(batch, 1, WINDOW, -1, -1), masked, whole], dim=1)
        predicted = network(sample.to(device), timestep.to(device), heard.to(device))
        steepness = ((1 - alpha) / alpha).clamp(0.3, _STEEPEST).to(device)
        return ((predicted - noise.to(device)).square() * weight * steepness).mean() / weight.mean()

    return train(path, network, loss_of, steps=steps, rate=1e-3, device=device)


def _start_still(network: LatentSyncUNet) -> None:
    """Begin with motion modules that add nothing and no prediction, as the official training does (``zero_initialize``)."""
    silent = [module.proj_out for name, module in network.named_modules() if hasattr(module, "proj_out") and "motion" in name]
    for layer in (network.conv_out, *silent):
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _tint(batch: int, size: tuple[int, ...]) -> Tensor:
    """Coarse random offsets (B, 4, 1, h, w), the same in all frames."""
    coarse = [strength * torch.randn(batch, 4, side, side) for side, strength in _TINTS]
    return sum((nn.functional.interpolate(each, size, mode="bicubic") for each in coarse), torch.zeros(()))[:, :, None]


def _window(latents: np.ndarray) -> Tensor:
    """(B, 16, 4, h, w) as the network sees it: (B, 4, 16, h, w)."""
    return torch.from_numpy(latents.astype(np.float32)).transpose(1, 2)
