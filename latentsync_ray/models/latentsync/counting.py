"""What a model's work takes, counted without weights or data: floating-point operations, and bytes held at most.

The model's own code runs on tensors of the device "meta", which have sizes and nothing in them.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from latentsync_ray.levels import to_uint8
from latentsync_ray.models import DType
from latentsync_ray.models.latentsync.model import LatentSync
from latentsync_ray.models.latentsync.options import WhisperSize
from latentsync_ray.models.latentsync.source import survey
from latentsync_ray.models.latentsync.specs import WINDOW, Flops, ModelSpec
from latentsync_ray.models.latentsync.unet import LatentSyncUNet
from latentsync_ray.models.latentsync.vae import build_small_vae
from latentsync_ray.models.latentsync.whisper import build_encoder

__all__ = ["count_flops", "empty_model", "flop_counter", "memory_of"]

_USUAL_VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}
"""Stable Diffusion's, where its own file is not on this machine."""
_WHISPER_SMALL = WhisperSize(width=768, heads=12, layers=12)
_TRACED = 4
"""From so many windows on, each one takes as much as the one before it."""


@cache
def count_flops(spec: ModelSpec, *, guided: bool) -> Flops:
    """With PyTorch's ``FlopCounterMode``: products and convolutions, a multiplication and an addition being two."""
    model = empty_model(spec)

    def counted(*, steps: int, cache_interval: int = 1) -> int:
        with flop_counter() as counter:
            _call(model, windows=1, guided=guided, steps=steps, cache_interval=cache_interval)
        return counter.get_total_flops()

    with torch.inference_mode(), flop_counter() as encoding:
        model.encode(torch.empty(WINDOW, 3, model.resolution, model.resolution, device="meta"))
    one, two, reusing = counted(steps=1), counted(steps=2), counted(steps=2, cache_interval=2)
    return Flops(whole=two - one, cached=reusing - one, around=2 * one - two, encoding=encoding.get_total_flops())


def flop_counter() -> FlopCounterMode:
    """PyTorch's, which of itself leaves out products that are added in place."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _added_product})


def _added_product(_: torch.Size, left: torch.Size, right: torch.Size, **options: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


@cache
def memory_of(spec: ModelSpec, *, windows: int, guided: bool, dtype: DType) -> int:
    """Bytes of all tensors that are held together, weights included, at the worst moment of a call. ``auto`` is bfloat16."""
    if windows > _TRACED:
        less, more = (memory_of(spec, windows=each, guided=guided, dtype=dtype) for each in (_TRACED - 1, _TRACED))
        return more + (windows - _TRACED) * (more - less)
    model = empty_model(spec, torch.bfloat16 if dtype == "auto" else getattr(torch, dtype))
    parts: tuple[nn.Module, ...] = model.unet, model.codec.vae, model.whisper
    with _Held() as held:
        for part in parts:
            held.see(part.parameters())
            held.see(part.buffers())
        _call(model, windows=windows, guided=guided, steps=1)
    return held.most


def _call(model: LatentSync, *, windows: int, guided: bool, steps: int, cache_interval: int = 1) -> None:
    side = model.resolution
    faces = model.draw(
        torch.empty(windows * WINDOW, 3, side, side, device="meta"),
        torch.arange(windows * WINDOW, device="meta").view(windows, WINDOW),
        model.silence(windows),
        steps=steps,
        guidance_scale=1.5 if guided else 1.0,
        seed=0,
        cache_interval=cache_interval,
    )
    to_uint8(faces)


def empty_model(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> LatentSync:
    """The model without its weights, on the device "meta"."""
    with torch.device("meta"):
        unet: Any = nn.Module.to(LatentSyncUNet(spec.unet), "meta", dtype)  # tables of positions are real until then
        whisper = build_encoder(_listener(spec))
        vae: Any = nn.Module.to(_empty_vae(spec), dtype)
        return LatentSync(spec, unet=unet, whisper=whisper, vae=vae, checkpoint="")


def _listener(spec: ModelSpec) -> WhisperSize:
    """The speech encoder, as far as it can be told without its file."""
    width = spec.unet.audio_width if spec.unet.audio else spec.whisper.width
    if width == spec.whisper.width:
        return spec.whisper
    return _WHISPER_SMALL if width == _WHISPER_SMALL.width else WhisperSize(width=width, heads=1)


def _empty_vae(spec: ModelSpec) -> nn.Module:
    if not spec.source:
        return build_small_vae()
    there = survey(spec).vae.get("vae_config")
    config = json.loads(Path(there).read_text(encoding="utf-8")) if there and Path(there).is_file() else _USUAL_VAE
    return AutoencoderKL.from_config(config)  # pyright: ignore[reportReturnType]


class _Held(TorchDispatchMode):
    """Adds up the bytes of tensors as they come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        made = function(*arguments, **(options or {}))
        self.see(each for each in tree_leaves(made) if isinstance(each, torch.Tensor))
        return made

    def see(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count what these hold, once each: views hold nothing of their own."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if id(storage) not in self._known:
                self._known.add(id(storage))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, id(storage), storage.nbytes())
        self.most = max(self.most, self.now)

    def _forget(self, which: int, size: int) -> None:
        self._known.discard(which)
        self.now -= size
