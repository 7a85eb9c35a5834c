"""The denoising network as sampling asks it: the same weights and results as ``LatentSyncUNet``, without its copies.

A picture's pixels are rows here, (frames, h, w, C), whatever the layer: to a convolution that is the layout "channels last", to
attention within a frame its pixels are tokens, to attention across frames its pixels are one more batch. All are views.

What does not change while a window is sampled is computed once: the effect of pictures and speech, and of each timestep. The
branch of guidance that hears nothing needs no attention to speech: to all zeros, that is the bias of its last layer.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from latentsync_ray.models.latentsync.norms import Norms
from latentsync_ray.models.latentsync.unet import LatentSyncUNet, NoMotion

__all__ = ["Question", "SamplingUNet"]


class SamplingUNet:
    """Shares its weights with ``unet``, which is moved to the layout that is needed here."""

    def __init__(self, unet: LatentSyncUNet) -> None:
        self.unet = unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.norms = Norms()
        self.projections: dict[Attention, Tensor] = {}
        for module in unet.modules():
            if isinstance(module, Attention) and not module.is_cross_attention:
                self.projections[module] = _joined(module)

    def about(self, conditions: Tensor, speech: Tensor | None, *, timesteps: Tensor, guided: bool) -> Question:
        """What is the same in all steps of some windows.

        ``conditions`` (B, 9, F, h, w): mask, masked and whole picture; ``speech`` (B, F, S, D), None for a network that hears
        none; ``timesteps`` (steps,) of all steps to come. ``guided``: predict for no speech (all zeros) too.
        """
        return Question(self, conditions, speech, timesteps=timesteps, guided=guided)


def _joined(layer: Attention) -> Tensor:
    """The projections to queries, keys and values as one (3, C, C); the layer's own become views of it."""
    parts = [layer.to_q, layer.to_k, layer.to_v]
    joined = torch.stack([part.weight.detach().T for part in parts])
    for part, weight in zip(parts, joined, strict=True):
        part.weight = nn.Parameter(weight.T, requires_grad=False)
    return joined


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
        self._unet, self._projections, self._norm = unet, network.projections, network.norms
        self._frames, self._guided, self._windows = frames, guided, batch * (2 if guided else 1)
        self._times = _timed_biases(unet, timesteps.to(conditions.device))
        weight, drawn = unet.conv_in.weight, unet.options.out_channels
        self._first_weight = weight[:, :drawn].contiguous(memory_format=torch.channels_last)
        self._shown = _convolved(_as_rows(conditions.to(unet.dtype)), weight[:, drawn:], unet.conv_in.bias)
        self._heard: dict[Attention, tuple[Tensor, Tensor]] = {}
        if speech is not None and unet.options.audio:
            tokens = speech.to(unet.dtype).flatten(0, 1)
            for module in unet.modules():
                if isinstance(module, Attention) and module.is_cross_attention:
                    layers: Any = module.to_k, module.to_v
                    keys, values = (_heads(layer(tokens), module.heads) for layer in layers)
                    self._heard[module] = keys, values
        self._places = {
            module: module.get_buffer("pe")[0, :frames, None]
            for module in unet.modules()
            if isinstance(module, SinusoidalPositionalEmbedding)
        }
        self._features: Tensor | None = None

    def __call__(self, latents: Tensor, step: int, *, reuse: bool = False) -> Tensor:
        """The noise in ``latents`` at the timestep of that number.

        ``reuse`` takes what all but the outermost layers gave in an earlier step, the last without it: DeepCache with branch 0,
        as the official script runs it (Ma et al., 2024).
        """
        drawn = _convolved(_as_rows(latents.to(self._unet.dtype)), self._first_weight, None)
        first = drawn.add_(self._shown)
        if self._guided:
            first = torch.cat([first, first])
        if not reuse or self._features is None:
            self._features = self._inner(first, step)
        rows = self._outermost(self._features, first, step)
        return rows.unflatten(0, (self._windows, self._frames)).permute(0, 4, 1, 2, 3)

    def _inner(self, rows: Tensor, step: int) -> Tensor:
        """All layers but the first and the last."""
        unet, skipped = self._unet, [rows]
        for block in unet.down_blocks:
            for number in range(len(block.resnets)):
                rows = self._layer(block, number, rows, step)
                skipped.append(rows)
            for down in block.downsamplers or ():
                rows = _through(down.conv, rows)
                skipped.append(rows)
        middle = unet.mid_block
        rows = self._resnet(middle.resnets[0], rows, step)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            rows = self._resnet(resnet, self._within_frames(attention, rows), step)
        for block in unet.up_blocks:
            count = len(block.resnets) - (block is unet.up_blocks[-1])
            for number in range(count):
                rows = self._layer(block, number, torch.cat([rows, skipped.pop()], dim=-1), step)
            for up in block.upsamplers or ():
                larger = functional.interpolate(rows.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest")
                rows = _through(up.conv, larger.permute(0, 2, 3, 1))
        return rows

    def _outermost(self, features: Tensor, first: Tensor, step: int) -> Tensor:
        unet, block = self._unet, self._unet.up_blocks[-1]
        rows = self._layer(block, len(block.resnets) - 1, torch.cat([features, first], dim=-1), step)
        return _through(unet.conv_out, functional.silu(self._across_frames(unet.conv_norm_out, rows), inplace=True))

    def _layer(self, block: Any, number: int, rows: Tensor, step: int) -> Tensor:
        rows = self._resnet(block.resnets[number], rows, step)
        if hasattr(block, "attentions"):
            rows = self._within_frames(block.attentions[number], rows)
        motion = block.motion_modules[number]
        return rows if isinstance(motion, NoMotion) else self._between_frames(motion, rows)

    def _resnet(self, layer: ResnetBlock2D, rows: Tensor, step: int) -> Tensor:
        hidden = functional.silu(self._across_frames(layer.norm1, rows), inplace=True)
        hidden = _through(layer.conv1, hidden, bias=self._times[layer][step])
        hidden = _through(layer.conv2, functional.silu(self._across_frames(layer.norm2, hidden), inplace=True))
        return hidden.add_(rows if layer.conv_shortcut is None else _through(layer.conv_shortcut, rows))

    def _across_frames(self, norm: nn.GroupNorm, rows: Tensor) -> Tensor:
        """Group norm with statistics over all frames of a window."""
        return self._norm(norm, rows.view(self._windows, -1, rows.shape[-1])).view(rows.shape)

    def _within_frames(self, layer: Any, rows: Tensor) -> Tensor:
        """A frame's pixels attend to each other, and to its speech."""
        tokens = self._norm(layer.norm, rows.flatten(1, 2))
        tokens = _through(layer.proj_in, tokens.view(rows.shape)).view(tokens.shape)
        for block in layer.transformer_blocks:
            queries, keys, values = self._projected(block.attn1, block.norm1(tokens), *tokens.shape[:2])
            tokens = _attended(block.attn1, queries, keys, values, tokens)
            if block.attn2 is not None:
                tokens = self._hearing(block, tokens)
            tokens = _fed_forward(block, tokens)
        return _added(rows, layer.proj_out, tokens)

    def _hearing(self, block: Any, tokens: Tensor) -> Tensor:
        layer = block.attn2
        if not self._heard:
            return tokens
        keys, values = self._heard[layer]
        spoken = tokens[-len(keys) :]  # guided: the first half hears nothing
        queries = _heads(layer.to_q(block.norm2(spoken)), layer.heads)
        if self._guided:
            tokens[: -len(keys)].add_(layer.to_out[0].bias)
        _attended(layer, queries, keys, values, spoken)
        return tokens

    def _between_frames(self, layer: Any, rows: Tensor) -> Tensor:
        """A pixel attends to itself in the other frames of its window."""
        tokens = self._norm(layer.norm, rows.flatten(1, 2))
        tokens = layer.proj_in(tokens)
        for block in layer.transformer_blocks:
            for norm, attention in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
                placed = norm(tokens).view(self._windows, self._frames, *tokens.shape[1:]).add_(self._places[block.pos_embed])
                queries, keys, values = self._projected(attention, placed.view(tokens.shape), self._windows, self._frames)
                tokens = _attended(attention, queries, keys, values, tokens)
            tokens = _fed_forward(block, tokens)
        return _added(rows, layer.proj_out, tokens)

    def _projected(self, layer: Attention, tokens: Tensor, groups: int, positions: int) -> tuple[Tensor, ...]:
        """Queries, keys and values, (groups, n, positions, C / heads) each; only positions of a group see each other.

        A frame's pixels as positions: groups are frames, n heads. Frames as positions: groups are windows, n pixels x heads.
        """
        width = tokens.shape[-1]
        flat = tokens.view(1, -1, width).expand(3, -1, -1)
        three = torch.bmm(flat, self._projections[layer]).view(3, groups, positions, -1, width // layer.heads)
        return three.transpose(2, 3).unbind(0)


def _timed_biases(unet: Any, timesteps: Tensor) -> dict[ResnetBlock2D, Tensor]:
    """What each resnet adds after its first convolution at each step, that convolution's bias included: (steps, C)."""
    embedded = functional.silu(unet.time_embedding(unet.time_proj(timesteps).to(unet.dtype)))
    resnets = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    return {layer: layer.time_emb_proj(embedded) + layer.conv1.bias for layer in resnets if layer.time_emb_proj is not None}


def _as_rows(latents: Tensor) -> Tensor:
    """(B, C, F, h, w) as (B*F, h, w, C)."""
    return latents.permute(0, 2, 3, 4, 1).flatten(0, 1)


def _convolved(rows: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Any = 1, padding: Any = 1) -> Tensor:
    return functional.conv2d(rows.permute(0, 3, 1, 2), weight, bias, stride, padding).permute(0, 2, 3, 1).contiguous()


def _through(layer: nn.Conv2d, rows: Tensor, *, bias: Tensor | None = None) -> Tensor:
    bias = layer.bias if bias is None else bias
    return _convolved(rows, layer.weight, bias, stride=layer.stride, padding=layer.padding)


def _added(stream: Tensor, layer: Any, found: Tensor) -> Tensor:
    """``stream`` (..., C), to which what a layer makes of each single ``found`` is added in place."""
    flat = stream.view(-1, stream.shape[-1])
    flat.add_(layer.bias).addmm_(found.reshape(len(flat), -1), layer.weight.flatten(1).T)
    return stream


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """(N, n, C) as (N, heads, n, C / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def _attended(layer: Any, queries: Tensor, keys: Tensor, values: Tensor, tokens: Tensor) -> Tensor:
    """``tokens``, to which what attention finds is added in place."""
    return _added(tokens, layer.to_out[0], functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2))


def _fed_forward(block: Any, tokens: Tensor) -> Tensor:
    widen, _, narrow = block.ff.net
    values, gates = widen.proj(block.norm3(tokens)).chunk(2, dim=-1)
    return _added(tokens, narrow, values * functional.gelu(gates))
