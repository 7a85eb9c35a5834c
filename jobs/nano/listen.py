"""The speech encoder: a small Whisper, trained to hear what the mouth does.

It is trained through a reader that sees what the denoising network will see, and that is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from latentsync_ray.model.audio import step_indices
from latentsync_ray.model.mel import STEPS_PER_WINDOW
from latentsync_ray.model.options import WhisperSize
from latentsync_ray.model.whisper import build_encoder, speech_features
from nano.loop import train
from nano.speech import FPS, Track

__all__ = ["hear", "train_encoder"]

_BATCH = 4
_FRAMES = 250
"""Frames read per track and step; all steps of a track are computed anyway."""
_SLOTS = 8
"""The denoising network sees the ten steps around a frame as a set and can hardly tell them apart, yet the middle one matters.
So each step says what the mouth does in the eight frames around it, each under its number modulo eight: all ten agree on the
middle frame's slot, and their position in time says which that is.
"""
_OFFSETS = (-8, -4, -2, 0, 2, 4, 8, None)
"""Steps by which the heads of the first layer look ahead; None: everywhere."""
_WAVES = ((9, 15, 22, 29), (8, 18, 25, 28))
"""Waves of the position table that the heads of either layer begin with: incommensurable, so that nothing far away looks near."""
_SHARPNESS = (6.0, 7.4)
_HELD_OUT = 12
"""Tracks, the last ones, that only report."""


class _Listener(nn.Module):
    """The encoder, and its reader: one attention layer and one gated layer, as in each block of the denoising network."""

    def __init__(self, size: WhisperSize) -> None:
        super().__init__()
        self.encoder = build_encoder(size)
        _start_local(self.encoder)
        self.slots = nn.Linear(size.width, 2 * _SLOTS)
        self.norm = nn.LayerNorm(size.width)
        self.start = nn.Parameter(torch.randn(size.width) / size.width**0.5)
        self.attention = nn.MultiheadAttention(size.width, 2, batch_first=True)
        self.mix = nn.Sequential(nn.LayerNorm(size.width), GEGLU(size.width, 4 * size.width), nn.Linear(4 * size.width, 2))

    def forward(self, mel: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Aperture and width (F, 2) at the steps ``indices`` (F, 10) of a window ``mel`` (80, 3000); its slots (1500, 2 S)."""
        features = speech_features(self.encoder, mel)
        tokens = self.norm(features[indices].flatten(1, 2))
        heard, _ = self.attention(self.start.expand(len(tokens), 1, -1), tokens, tokens, need_weights=False)
        return self.mix(heard[:, 0]), self.slots(features[:, -1])


def _start_local(encoder: WhisperEncoder) -> None:
    """Positions of which one wave has the slots' period, and attention that begins where it is needed.

    Heads of the first layer look a few steps before or after, one at everything (for the loudness); heads of the second at the
    nearest step of their slot. From random weights, training takes ten times as long to find that.
    """
    for module in encoder.modules():  # transformers' own small start would drown the sound in the positions
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    width, heads = encoder.config.d_model, encoder.config.encoder_attention_heads
    waves = torch.arange(width // 2)
    periods = 2 * _SLOTS * 2.0 ** ((waves - 8) / 4)  # of wave 8 that of the slots, in steps
    angles = 2 * torch.pi * torch.arange(STEPS_PER_WINDOW)[:, None] / periods
    used = sorted({wave for seen in _WAVES for wave in seen})
    reserved = torch.tensor([*used, *(wave + width // 2 for wave in used)])  # for positions; all else writes elsewhere
    for writer in (encoder.conv2, *(each for layer in encoder.layers for each in (layer.self_attn.out_proj, layer.fc2))):
        writer.weight.data[reserved] *= 0.05
    for writer in (encoder.layers[0].self_attn.out_proj, encoder.layers[0].fc2):
        writer.weight.data *= 0.25
    encoder.embed_positions.weight.data.copy_(torch.cat([angles.cos(), angles.sin()], dim=1))
    for number, (layer, seen) in enumerate(zip(encoder.layers, _WAVES, strict=True)):
        query, key = layer.self_attn.q_proj, layer.self_attn.k_proj
        for linear in (query, key):
            linear.weight.data.mul_(0.2)
        for head in range(heads):
            if number == 0 and _OFFSETS[head] is None:
                continue
            for pair, wave in enumerate(seen):
                row = torch.tensor([2 * pair, 2 * pair + 1]) + head * (width // heads)
                column = torch.tensor([wave, wave + width // 2])
                key.weight.data[row[:, None], column] += _SHARPNESS[number] * torch.eye(2)
                if number == 1 and pair == 0:
                    angle = torch.tensor(2 * torch.pi * head / _SLOTS)
                    query.bias.data[row] += 5.5 * torch.stack([angle.cos(), angle.sin()])
                else:
                    angle = 2 * torch.pi * (0 if number else _OFFSETS[head] or 0) / periods[wave]
                    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
                    query.weight.data[row[:, None], column] += _SHARPNESS[number] * turn


def _slot_frames(frames: int) -> np.ndarray:
    """Which frame each slot of each step stands for, int (1500, S): the nearest whose number is the slot's, modulo S."""
    slot = np.arange(_SLOTS)
    middle = np.arange(STEPS_PER_WINDOW)[:, None] * FPS / 50
    nearest = slot + _SLOTS * np.rint((middle - slot) / _SLOTS).astype(int)
    return np.clip(nearest, 0, frames - 1)


def train_encoder(
    path: Path, tracks: Sequence[Track], size: WhisperSize, *, steps: int, device: torch.device
) -> WhisperEncoder:
    """A speech encoder whose features tell aperture and width."""
    listener = _Listener(size)

    importance = torch.tensor([1.0, 0.3], device=device)

    def loss_of(draw: np.random.Generator) -> Tensor:
        losses = []
        for chosen in draw.integers(0, len(tracks) - _HELD_OUT, _BATCH):
            track = tracks[chosen]
            first = int(draw.integers(0, max(1, len(track.curves) - _FRAMES + 1)))
            truth = torch.from_numpy(track.curves[first : first + _FRAMES]).to(device)
            read, slots = listener(_mel(track).to(device), _indices(track, first, first + len(truth)).to(device))
            wanted = torch.from_numpy(track.curves[_slot_frames(len(track.curves))[: track.steps]]).flatten(1).to(device)
            losses.append(((read - truth).square().mean(0) * importance).sum())
            losses.append((slots[: track.steps] - wanted).square().mean())
        return torch.stack(losses).sum() / _BATCH

    trained = train(path, listener, loss_of, steps=steps, rate=1.5e-3, average=0.99, device=device)
    assert isinstance(trained, _Listener)
    _report(trained, tracks[-_HELD_OUT:])
    return trained.encoder


@torch.inference_mode()
def hear(encoder: WhisperEncoder, track: Track, frame: int, count: int) -> Tensor:
    """The speech (count, 10 * layers, D) of ``count`` video frames of a track from ``frame`` on."""
    return speech_features(encoder, _mel(track))[_indices(track, frame, frame + count)].flatten(1, 2).clone()


@torch.inference_mode()
def _report(listener: _Listener, tracks: Sequence[Track]) -> None:
    read = [listener(_mel(track), _indices(track, 0, len(track.curves)))[0].numpy() for track in tracks]
    for number, name in enumerate(("aperture", "width")):
        heard = np.concatenate([each[:, number] for each in read])
        truth = np.concatenate([track.curves[:, number] for track in tracks])
        error = np.sqrt(np.mean((heard - truth) ** 2))
        print(f"{name}: correlation {np.corrcoef(heard, truth)[0, 1]:.3f}, error {error:.3f}", flush=True)


def _mel(track: Track) -> Tensor:
    return torch.from_numpy(track.mel.astype(np.float32))


def _indices(track: Track, first: int, stop: int) -> Tensor:
    return torch.from_numpy(step_indices(first, stop, Fraction(FPS), track.steps)).long()
