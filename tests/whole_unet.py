"""One small UNet in every form, on weights and inputs that numpy's frozen ``RandomState`` draws."""

from __future__ import annotations

import dataclasses as dc
import functools
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsync_ray.models.latentsync.checkpoint import fill
from latentsync_ray.models.latentsync.options import UNetConfig
from latentsync_ray.models.latentsync.unet import LatentSyncUNet

SMALL = UNetConfig(block_out_channels=(32, 32, 32, 64), norm_num_groups=8, audio_width=64)
VARIANTS: dict[str, UNetConfig] = {
    "all": SMALL,
    "decoder": dc.replace(SMALL, motion="decoder"),
    "none": dc.replace(SMALL, motion="none"),
    "no_speech_layers": dc.replace(SMALL, audio=False),
}


@functools.cache
def drawn_unet(options: UNetConfig) -> LatentSyncUNet:
    """Every tensor random, norms and biases too; a tensor that two forms share is the same in both. Not to be changed."""
    with torch.device("meta"):
        unet = LatentSyncUNet(options)
    weights = {}
    for name, tensor in unet.state_dict().items():
        random = np.random.RandomState(zlib.crc32(name.encode()))
        drawn = torch.from_numpy(random.standard_normal(tuple(tensor.shape)).astype(np.float32))
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
        weights[name] = drawn / fan_in**0.5 + float("norm" in name and name.endswith("weight"))
    return fill(unet, weights, path=Path("drawn"), device=torch.device("cpu"), dtype=torch.float32)


def run_variant(name: str) -> Tensor:
    """Predicted noise (1, 4, 3, 8, 12) of a form for a fixed input."""
    random = np.random.RandomState(7)
    sample, speech = (random.standard_normal(shape).astype(np.float32) for shape in ((1, 13, 3, 8, 12), (1, 3, 30, 64)))
    audio = torch.from_numpy(speech) if VARIANTS[name].audio else None
    with torch.inference_mode():
        return drawn_unet(VARIANTS[name])(torch.from_numpy(sample), 321, audio).contiguous().clone()
