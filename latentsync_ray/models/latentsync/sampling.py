"""The denoising network as sampling asks it: the same weights and results as ``LatentSyncUNet``, without its copies.

What does not change while a window is sampled is computed once: the effect of pictures and speech, and of each timestep. The
branch of guidance that hears nothing needs no attention to speech. What the layers do is in ``layers.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor
from torch.nn import functional

from latentsync_ray.models.compiling import Compiling
from latentsync_ray.models.latentsync.layers import as_rows, closing, convolved, heads, layer, prepare, through
from latentsync_ray.models.latentsync.unet import LatentSyncUNet, NoMotion

__all__ = ["Question", "SamplingUNet"]


class SamplingUNet:
    """Shares its weights with ``unet``, which is moved to the layout that is needed here."""

    def __init__(self, unet: LatentSyncUNet) -> None:
        prepare(unet)
        self.unet = unet
        self.layer, self.closing = layer, closing

    def compile(self, compiling: Compiling) -> None:
        """Run the layers compiled: each kind of them once, whatever weights it has."""
        self.layer, self.closing = compiling(layer), compiling(closing)

    def about(self, conditions: Tensor, speech: Tensor | None, *, timesteps: Tensor, guided: bool) -> Question:
        """What is the same in all steps of some windows.

        ``conditions`` (B, 9, F, h, w): mask, masked and whole picture; ``speech`` (B, F, S, D), None for a network that hears
        none; ``timesteps`` (steps,) of all steps to come. ``guided``: predict for no speech (all zeros) too.
        """
        return Question(self, conditions, speech, timesteps=timesteps, guided=guided)


class Question:
    """Asks for the noise in some windows, step by step: ``question(latents, step)``.

    Latents are float32 (B, 4, F, h, w). The answer is (B, 4, F, h, w) in the network's own format; guided (2 B, ...), first of
    all windows without speech.
    """

    def __init__(
        self, network: SamplingUNet, conditions: Tensor, speech: Tensor | None, *, timesteps: Tensor, guided: bool
    ) -> None:
        unet: Any = network.unet
        batch, _, frames = conditions.shape[:3]
        if not 1 <= frames <= unet.options.max_frames:
            raise ValueError(f"{frames} frames do not fit this model's temporal window of 1 to {unet.options.max_frames}")
        self._network, self._unet = network, unet
        self._frames, self._guided, self._windows = frames, guided, batch * (2 if guided else 1)
        self._times = _timed_biases(unet, timesteps.to(conditions.device))
        weight, drawn = unet.conv_in.weight, unet.options.out_channels
        self._first_weight = weight[:, :drawn].contiguous(memory_format=torch.channels_last)
        self._shown = convolved(as_rows(conditions.to(unet.dtype)), weight[:, drawn:], unet.conv_in.bias)
        self._audio_kv: dict[Any, tuple[Tensor, Tensor]] = {}
        if speech is not None and unet.options.audio:
            tokens = speech.to(unet.dtype).flatten(0, 1)
            for attention in unet.modules():
                if isinstance(attention, Attention) and attention.is_cross_attention:
                    projections: Any = attention.to_k, attention.to_v
                    keys, values = (heads(project(tokens), attention.heads) for project in projections)
                    self._audio_kv[attention] = keys, values
        self._positions = {
            table: table.get_buffer("pe")[0, :frames, None]
            for table in unet.modules()
            if isinstance(table, SinusoidalPositionalEmbedding)
        }
        self._features: Tensor | None = None

    def __call__(self, latents: Tensor, step: int, *, reuse: bool = False) -> Tensor:
        """The noise in ``latents`` at the timestep of that number.

        ``reuse`` takes what all but the outermost layers gave in an earlier step, the last without it: DeepCache with branch 0,
        as the official script runs it (Ma et al., 2024).
        """
        drawn = convolved(as_rows(latents.to(self._unet.dtype)), self._first_weight, None)
        first = drawn.add_(self._shown)
        if self._guided:
            first = torch.cat([first, first])
        if not reuse or self._features is None:
            self._features = None  # not held any longer than needed
            self._features = self._inner(first, step)
        rows = self._outermost(self._features, first, step)
        return rows.unflatten(0, (self._windows, self._frames)).permute(0, 4, 1, 2, 3)

    def _inner(self, rows: Tensor, step: int) -> Tensor:
        """All layers but the first and the last."""
        unet, skipped = self._unet, [rows]
        for block in unet.down_blocks:
            for number in range(len(block.resnets)):
                rows = self._layer_of(block, number, rows, step)
                skipped.append(rows)
            for down in block.downsamplers or ():
                rows = through(down.conv, rows)
                skipped.append(rows)
        middle = unet.mid_block
        for resnet, attention in zip(middle.resnets, [*middle.attentions, None], strict=True):
            rows = self._layer(resnet, attention, None, rows, step)
        for block in unet.up_blocks:
            count = len(block.resnets) - (block is unet.up_blocks[-1])
            for number in range(count):
                rows = self._layer_of(block, number, torch.cat([rows, skipped.pop()], dim=-1), step)
            for up in block.upsamplers or ():
                larger = functional.interpolate(rows.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest")
                rows = through(up.conv, larger.permute(0, 2, 3, 1))
        return rows

    def _outermost(self, features: Tensor, first: Tensor, step: int) -> Tensor:
        unet, block = self._unet, self._unet.up_blocks[-1]
        rows = self._layer_of(block, len(block.resnets) - 1, torch.cat([features, first], dim=-1), step)
        return self._network.closing(unet.conv_norm_out, unet.conv_out, rows, self._windows)

    def _layer_of(self, block: Any, number: int, rows: Tensor, step: int) -> Tensor:
        attention = block.attentions[number] if hasattr(block, "attentions") else None
        motion = block.motion_modules[number]
        return self._layer(block.resnets[number], attention, None if isinstance(motion, NoMotion) else motion, rows, step)

    def _layer(self, resnet: ResnetBlock2D, attention: Any, motion: Any, rows: Tensor, step: int) -> Tensor:
        bias = self._times[resnet][step]
        audio_kv = self._audio_kv.get(attention and attention.transformer_blocks[0].attn2)
        positions = motion and self._positions[motion.transformer_blocks[0].pos_embed]
        return self._network.layer(resnet, attention, motion, rows, bias, audio_kv, positions, self._windows)


def _timed_biases(unet: Any, timesteps: Tensor) -> dict[ResnetBlock2D, tuple[Tensor, ...]]:
    """What each resnet adds after its first convolution at each step, that convolution's bias included: (C,) for each."""
    embedded = functional.silu(unet.time_embedding(unet.time_proj(timesteps).to(unet.dtype)))
    resnets = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    return {
        resnet: (resnet.time_emb_proj(embedded) + resnet.conv1.bias).unbind()
        for resnet in resnets
        if resnet.time_emb_proj is not None
    }
