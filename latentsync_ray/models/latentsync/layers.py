"""The layers of the denoising network as sampling runs them: functions of the modules that hold their weights.

A picture's pixels are rows here, (frames, h, w, C), whatever the layer: to a convolution that is the layout "channels last", to
attention within a frame its pixels are tokens, to attention across frames its pixels are one more batch. All are views.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional

from latentsync_ray.models.latentsync.norms import normed, prepare_norms

__all__ = ["as_rows", "closing", "convolved", "heads", "layer", "prepare", "through"]


def prepare(unet: nn.Module) -> None:
    """Lay weights out as the functions here want them; the network shares them, and works as before."""
    unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    prepare_norms(unet)
    for module in unet.modules():
        if isinstance(module, Attention) and not module.is_cross_attention:
            module.register_buffer("qkv_weight", _qkv_weight(module), persistent=False)
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            module.register_buffer("weight_t", module.weight.detach().flatten(1).T, persistent=False)


def _qkv_weight(attention: Attention) -> Tensor:
    """The projections to queries, keys and values as one (3, C, C); the layer's own become views of it."""
    parts = [attention.to_q, attention.to_k, attention.to_v]
    qkv_weight = torch.stack([part.weight.detach().T for part in parts])
    for part, weight in zip(parts, qkv_weight, strict=True):
        part.weight = nn.Parameter(weight.T, requires_grad=False)
    return qkv_weight


def layer(
    resnet: Any,
    attention: Any,
    motion: Any,
    rows: Tensor,
    bias: Tensor,
    audio_kv: tuple[Tensor, Tensor] | None,
    positions: Tensor | None,
    windows: int,
) -> Tensor:
    """One layer of a block: a resnet, and where there are any (else None) attention within frames and across them.

    ``bias`` (C,) is what the resnet adds at this timestep; ``audio_kv`` keys and values of the speech, (frames, heads, S, C /
    heads), of the last frames when there are fewer: the others hear nothing; ``positions`` (F, 1, C) the table of positions.
    """
    rows = _resnet(resnet, rows, bias, windows)
    if attention is not None:
        rows = _within_frames(attention, rows, audio_kv)
    return rows if motion is None else _between_frames(motion, rows, positions, windows)


def closing(norm: nn.GroupNorm, conv: nn.Conv2d, rows: Tensor, windows: int) -> Tensor:
    """The last convolution and what comes before it."""
    return through(conv, functional.silu(_across_frames(norm, rows, windows), inplace=True))


def through(conv: nn.Conv2d, rows: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """A convolution, with another ``bias`` if one is given."""
    return convolved(rows, conv.weight, conv.bias if bias is None else bias, stride=conv.stride, padding=conv.padding)


def convolved(rows: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Any = 1, padding: Any = 1) -> Tensor:
    """A convolution with weights of one's own."""
    return functional.conv2d(rows.permute(0, 3, 1, 2), weight, bias, stride, padding).permute(0, 2, 3, 1).contiguous()


def as_rows(latents: Tensor) -> Tensor:
    """(B, C, F, h, w) as (B*F, h, w, C)."""
    return latents.permute(0, 2, 3, 4, 1).flatten(0, 1)


def heads(tokens: Tensor, count: int) -> Tensor:
    """(N, n, C) as (N, heads, n, C / heads)."""
    return tokens.unflatten(2, (count, -1)).transpose(1, 2)


def _resnet(resnet: Any, rows: Tensor, bias: Tensor, windows: int) -> Tensor:
    hidden = functional.silu(_across_frames(resnet.norm1, rows, windows), inplace=True)
    hidden = through(resnet.conv1, hidden, bias=bias)
    hidden = through(resnet.conv2, functional.silu(_across_frames(resnet.norm2, hidden, windows), inplace=True))
    return hidden.add_(rows if resnet.conv_shortcut is None else through(resnet.conv_shortcut, rows))


def _across_frames(norm: nn.GroupNorm, rows: Tensor, windows: int) -> Tensor:
    """Group norm with statistics over all frames of a window."""
    return normed(norm, rows.view(windows, -1, rows.shape[-1])).view(rows.shape)


def _within_frames(attention: Any, rows: Tensor, audio_kv: tuple[Tensor, Tensor] | None) -> Tensor:
    """A frame's pixels attend to each other, and to its speech."""
    tokens, block = normed(attention.norm, rows.flatten(1, 2)), attention.transformer_blocks[0]
    tokens = through(attention.proj_in, tokens.view(rows.shape)).view(tokens.shape)
    queries, keys, values = _projected(block.attn1, block.norm1(tokens), *tokens.shape[:2])
    tokens = _attended(block.attn1, queries, keys, values, tokens)
    if audio_kv is not None:
        keys, values = audio_kv
        silent, spoken = tokens[: -len(keys)], tokens[-len(keys) :]
        if len(silent):  # to all zeros, attention is the bias of its last layer
            silent.add_(block.attn2.to_out[0].bias)
        _attended(block.attn2, heads(block.attn2.to_q(block.norm2(spoken)), block.attn2.heads), keys, values, spoken)
    return _added(rows, attention.proj_out, _fed_forward(block, tokens))


def _between_frames(motion: Any, rows: Tensor, positions: Tensor | None, windows: int) -> Tensor:
    """A pixel attends to itself in the other frames of its window."""
    tokens, block = motion.proj_in(normed(motion.norm, rows.flatten(1, 2))), motion.transformer_blocks[0]
    for norm, attention in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
        placed = norm(tokens).view(windows, -1, *tokens.shape[1:]).add_(positions)
        queries, keys, values = _projected(attention, placed.view(tokens.shape), *placed.shape[:2])
        tokens = _attended(attention, queries, keys, values, tokens)
    return _added(rows, motion.proj_out, _fed_forward(block, tokens))


def _projected(attention: Any, tokens: Tensor, groups: int, length: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, (groups, n, length, C / heads) each; only positions of a group see each other.

    A frame's pixels as positions: groups are frames, n heads. Frames as positions: groups are windows, n pixels x heads.
    """
    width = tokens.shape[-1]
    flat = tokens.view(1, -1, width).expand(3, -1, -1)
    three = torch.bmm(flat, attention.qkv_weight).view(3, groups, length, -1, width // attention.heads)
    return three.transpose(2, 3).unbind(0)


def _attended(attention: Any, queries: Tensor, keys: Tensor, values: Tensor, tokens: Tensor) -> Tensor:
    """``tokens``, to which what attention finds is added in place."""
    found = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
    return _added(tokens, attention.to_out[0], found)


def _fed_forward(block: Any, tokens: Tensor) -> Tensor:
    widen, _, narrow = block.ff.net
    values, gates = widen.proj(block.norm3(tokens)).chunk(2, dim=-1)
    return _added(tokens, narrow, values * functional.gelu(gates))


def _added(stream: Tensor, linear: Any, found: Tensor) -> Tensor:
    """``stream`` (..., C), to which what a linear layer makes of each single ``found`` is added in place."""
    flat = stream.view(-1, stream.shape[-1])
    flat.add_(linear.bias).addmm_(found.reshape(len(flat), -1), linear.weight_t)
    return stream
