"""Where the speech encoder starts from: attention that already looks where it has to.

Heads of all layers but the last look a few steps ahead or back, one at everything (for the loudness). Heads of the last look at
the nearest step of their slot (see ``listen``). From random weights training takes many times as long to find that out.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from latentsync_ray.models.latentsync.networks import WhisperEncoder, WhisperEncoderLayer

__all__ = ["start_local"]

_OFFSETS = ((-2, -1, 1, 2, None, None, None, None), (-6, -4, -2, 0, 2, 4, 6, None))
"""Steps by which the heads of all layers but the last look ahead; None: everywhere. The first
layer learns how loud the clip is and how loud each step, the second what the lips, which are slower, make of its neighbours.
"""
_NEAR, _NEAR_SHARPNESS = (4, 9, 15, 22, 29), 7.0
"""Waves of the position table that heads look at, and how sharply: the next step counts for a hundredth, and the waves are
incommensurable, so that nothing far away looks near.
"""
_SLOT, _SLOT_NEAR, _SLOT_SHARPNESS, _SLOT_BIAS = (8, 4), (18, 25, 28), 7.4, 5.5
"""The waves that tell the slots apart, of 16 and 8 steps, and those that find the nearest."""


def start_local(encoder: WhisperEncoder, slots: int) -> None:
    """Set the first weights of ``encoder``, which has 8 heads: ``slots`` frames of two steps each are told apart."""
    for module in encoder.modules():  # transformers' own small start would drown the sound in the positions
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    layers = [cast("WhisperEncoderLayer", layer) for layer in encoder.layers]
    steps, width = encoder.embed_positions.weight.shape
    periods = 2 * slots * 2.0 ** ((torch.arange(width // 2) - _SLOT[0]) / 4)  # in steps
    angles = 2 * torch.pi * torch.arange(steps)[:, None] / periods
    encoder.embed_positions.weight.data.copy_(torch.cat([angles.cos(), angles.sin()], dim=1))

    used = sorted({*_NEAR, *_SLOT, *_SLOT_NEAR})
    reserved = torch.tensor([*used, *(wave + width // 2 for wave in used)])  # for positions; all else writes elsewhere
    for writer in (encoder.conv2, *(writer for layer in layers for writer in (layer.self_attn.out_proj, layer.fc2))):
        writer.weight.data[reserved] *= 0.05
    for layer in layers:
        layer.self_attn.q_proj.weight.data *= 0.2
        layer.self_attn.k_proj.weight.data *= 0.2

    for layer, offsets in zip(layers[:-1], _OFFSETS, strict=True):
        layer.self_attn.out_proj.weight.data *= 0.25
        layer.fc2.weight.data *= 0.25
        for head, offset in enumerate(offsets):
            for pair, wave in enumerate(_NEAR if offset is not None else ()):
                turn = 2 * math.pi * (offset or 0) / float(periods[wave])
                _match(layer, head, pair, wave, turn=turn, sharpness=_NEAR_SHARPNESS)
    for head in range(layers[-1].self_attn.num_heads):
        for pair, wave in enumerate(_SLOT):
            rows = _match(layers[-1], head, pair, wave, turn=None, sharpness=_SLOT_SHARPNESS)
            angle = 2 * math.pi * (2 * head + 1) / float(periods[wave])  # the middle of frame number h is at step 2 h + 1
            layers[-1].self_attn.q_proj.bias.data[rows] += _SLOT_BIAS * torch.tensor([math.cos(angle), math.sin(angle)])
        for pair, wave in enumerate(_SLOT_NEAR, start=len(_SLOT)):
            _match(layers[-1], head, pair, wave, turn=0.0, sharpness=_SLOT_SHARPNESS)


def _match(layer: WhisperEncoderLayer, head: int, pair: int, wave: int, *, turn: float | None, sharpness: float) -> Tensor:
    """Have two rows of ``head`` compare positions by ``wave``, the query's turned ahead; without a turn the query is left out.

    Returns the two rows.
    """
    attention = layer.self_attn
    rows = head * attention.head_dim + torch.tensor([2 * pair, 2 * pair + 1])
    columns = torch.tensor([wave, wave + attention.embed_dim // 2])
    attention.k_proj.weight.data[rows[:, None], columns] += sharpness * torch.eye(2)
    if turn is not None:
        rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        attention.q_proj.weight.data[rows[:, None], columns] += sharpness * rotation
    return rows
