"""LatentSync's denoising network, expressed as three changes to diffusers' AnimateDiff UNet.

This is the form that is trained and held against the official one; ``sampling.py`` asks the same weights faster. Knows neither
the key names of checkpoints (``checkpoint.py``) nor sampling (``denoise.py``).
Paper: https://arxiv.org/abs/2412.09262
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, UNetMotionModel
from torch import Tensor, nn

from latentsync_ray.models.latentsync.options import DOWN_BLOCKS, UP_BLOCKS, UNetConfig

__all__ = ["LatentSyncUNet", "NoMotion", "sinusoid"]


class _ClipGroupNorm(nn.GroupNorm):
    """Group norm with statistics over all frames of a clip: (B*F, C, h, w) is normalised as (B, C, F, h, w)."""

    frames = 1

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        clip = input.unflatten(0, (-1, self.frames)).transpose(1, 2)
        return super().forward(clip).transpose(1, 2).flatten(0, 1)


class _FrameGroupNorm(nn.GroupNorm):
    """Group norm with statistics of each frame on its own, on (B, C, F, h, w)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        frames = input.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class NoMotion(nn.Module):
    """Stands where a motion module would be and passes its input on."""

    def forward(self, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
        return hidden_states


class _AudioAttention(AttnProcessor2_0):
    """Attention to the speech; without any it adds nothing, so that the layer is as if absent."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **options: Any
    ) -> Tensor:
        if encoder_hidden_states is None:
            return torch.zeros_like(hidden_states)
        return super().__call__(attn, hidden_states, encoder_hidden_states, **options)


class LatentSyncUNet(UNetMotionModel):
    """Predicts the noise in a window of latents from its pictures and its speech.

    Differs from AnimateDiff's UNet in three ways: resnets and the output normalise across frames, motion modules normalise each
    frame (always 32 groups), and every frame attends to its own speech only.
    """

    def __init__(self, options: UNetConfig) -> None:
        super().__init__(
            in_channels=options.in_channels,
            out_channels=options.out_channels,
            down_block_types=tuple(f"{kind}Motion" for kind in DOWN_BLOCKS),
            up_block_types=tuple(f"{kind}Motion" for kind in UP_BLOCKS),
            block_out_channels=options.block_out_channels,
            layers_per_block=options.layers_per_block,
            norm_num_groups=options.norm_num_groups,
            norm_eps=options.norm_eps,
            # One entry per level: None, unlike a single number, builds blocks without attention to speech.
            cross_attention_dim=(options.audio_width if options.audio else None,) * 4,  # pyright: ignore[reportArgumentType]
            num_attention_heads=options.heads,
            motion_num_attention_heads=options.motion_heads,
            motion_max_seq_length=options.max_frames,
            use_motion_mid_block=False,
        )
        self.options = options
        for module in list(self.modules()):
            if isinstance(module, ResnetBlock2D):
                module.norm1, module.norm2 = _across_frames(module.norm1), _across_frames(module.norm2)
            elif isinstance(module, AnimateDiffTransformer3D):
                module.norm = _FrameGroupNorm(32, module.norm.num_channels, eps=1e-6)
            elif isinstance(module, SinusoidalPositionalEmbedding):
                with torch.device("cpu"):  # computed, not loaded: real even where the weights have no storage yet
                    table = sinusoid(options.max_frames, module.get_buffer("pe").shape[-1])[None]
                module.register_buffer("pe", table, persistent=False)
        self.conv_norm_out = _across_frames(self.conv_norm_out)
        for block in (*self.down_blocks, *self.up_blocks):
            if options.motion == "none" or (options.motion == "decoder" and block in self.down_blocks):
                block.motion_modules = nn.ModuleList(NoMotion() for _ in block.get_submodule("motion_modules").children())
        if options.audio:
            for name, module in self.named_modules():
                if ".attentions." in name and name.endswith(".attn2"):
                    module.set_processor(_AudioAttention())
        self._across = [module for module in self.modules() if isinstance(module, _ClipGroupNorm)]

    def forward(self, sample: Tensor, timestep: Tensor | int, audio: Tensor | None = None) -> Tensor:
        """Predicted noise (B, 4, F, h, w) for ``sample`` (B, 13, F, h, w) at ``timestep`` (one for all, or (B,)).

        ``audio`` is (B, F, S, D), S speech vectors for each frame; None leaves the speech layers out. F is at most
        ``max_frames``; the frames of one window belong together, because normalisation runs over all of them.
        """
        frames = sample.shape[2]
        if not 1 <= frames <= self.options.max_frames:
            raise ValueError(f"{frames} frames do not fit this model's temporal window of 1 to {self.options.max_frames}")
        for norm in self._across:
            norm.frames = frames
        speech = None if audio is None else audio.flatten(0, 1)
        return super().forward(sample, timestep, speech, return_dict=False)[0]  # pyright: ignore[reportArgumentType]


def sinusoid(length: int, width: int) -> Tensor:
    """Position table (length, width): sine and cosine in turn, periods from 2 pi to 20000 pi (Vaswani et al., 2017)."""
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _across_frames(norm: nn.GroupNorm | None) -> _ClipGroupNorm:
    assert norm is not None
    return _ClipGroupNorm(norm.num_groups, norm.num_channels, eps=norm.eps)
