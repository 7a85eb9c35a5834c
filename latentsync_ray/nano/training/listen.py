"""The speech encoder: a small Whisper, trained to hear what the mouth does.

It is trained through a reader that sees what the denoising network will see, and that is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from latentsync_ray.models.latentsync.audio import step_indices
from latentsync_ray.models.latentsync.networks import GEGLU, WhisperEncoder
from latentsync_ray.models.latentsync.options import WhisperSize
from latentsync_ray.models.latentsync.whisper import build_encoder, speech_features
from latentsync_ray.models.mel import STEPS_PER_WINDOW
from latentsync_ray.nano.training.loop import train
from latentsync_ray.nano.training.speech import FPS, Track
from latentsync_ray.nano.training.start import start_local
from latentsync_ray.nano.training.vary import varied

__all__ = ["features", "hear", "slot_frames", "train_encoder"]

_BATCH = 4
_WHOLE = 0.05
"""Share of tracks that are heard with all the silence up to 30 s, as the pipeline hears them."""
_FRAMES = 250
"""Frames read per track and step; all steps of a track are computed anyway."""
_SLOTS = 8
"""The denoising network sees the ten steps around a frame as a set and can hardly tell them apart, yet the middle one matters.
So each step says what the mouth does in the eight frames around it, each under its number modulo eight: all ten agree on the
middle frame's slot, and their position in time says which that is.
"""
_WIDTH = 0.15
"""How much the width counts against the aperture: an error of it changes far fewer pixels."""
_HELD_OUT = 12
"""Tracks, the last ones, that the encoder only reports on; the denoising network learns from them too."""


class _Listener(nn.Module):
    """The encoder, and its reader: one attention layer and one gated layer, as in each block of the denoising network."""

    def __init__(self, size: WhisperSize) -> None:
        super().__init__()
        self.encoder = build_encoder(size)
        start_local(self.encoder, _SLOTS)
        self.here = nn.Linear(size.width, 2)
        self.slots = nn.Linear(size.width, 2 * _SLOTS)
        self.norm = nn.LayerNorm(size.width)
        self.start = nn.Parameter(torch.randn(size.width) / size.width**0.5)
        self.attention = nn.MultiheadAttention(size.width, 2, batch_first=True)
        self.mix = nn.Sequential(nn.LayerNorm(size.width), GEGLU(size.width, 4 * size.width), nn.Linear(4 * size.width, 2))

    def forward(self, mel: Tensor, indices: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Aperture and width (F, 2) at the steps ``indices`` (F, 10) of ``mel`` (80, 2 S), which stands at step ``first``.

        And what its last layers know of them: the last but one of each step (S, 2), the last of the slots (S, 2 * _SLOTS).
        """
        known = features(self.encoder, mel, first)
        tokens = self.norm(known[indices].flatten(1, 2))
        heard, _ = self.attention(self.start.expand(len(tokens), 1, -1), tokens, tokens, need_weights=False)
        return self.mix(heard[:, 0]), self.here(known[:, -2]), self.slots(known[:, -1])


def features(encoder: WhisperEncoder, mel: Tensor, first: int) -> Tensor:
    """As ``speech_features``, of sound (80, 2 S) that need not fill the window: (S, layers + 1, D).

    Attention costs the square of the length, so most of the training sees no more of a track than there is.
    """
    state = gelu(encoder.conv2(gelu(encoder.conv1(mel[None])))).mT
    states = [state + encoder.embed_positions.weight[first : first + state.shape[1]]]
    for layer in encoder.layers:
        states.append(layer(states[-1], None))
    return torch.stack(states, dim=2)[0]


def slot_frames(frames: int) -> np.ndarray:
    """Which frame each slot of each step stands for, int (1500, S): the nearest whose number is the slot's, modulo S.

    Past the last frame, the last.
    """
    slot = np.arange(_SLOTS)
    middle = (np.arange(STEPS_PER_WINDOW)[:, None] - 1) * FPS / 50
    nearest = slot + _SLOTS * np.rint((middle - slot) / _SLOTS).astype(int)
    return np.clip(nearest, 0, frames - 1)


def train_encoder(
    path: Path, tracks: Sequence[Track], size: WhisperSize, *, steps: int, device: torch.device
) -> WhisperEncoder:
    """A speech encoder whose features tell aperture and width."""
    listener = _Listener(size)

    importance = torch.tensor([1.0, _WIDTH], device=device)

    def loss_of(draw: np.random.Generator) -> Tensor:
        losses = []
        for chosen in draw.integers(0, len(tracks) - _HELD_OUT, _BATCH):
            track = varied(tracks[chosen], draw)
            audible, at = (STEPS_PER_WINDOW, 0) if draw.random() < _WHOLE else _cut(track, draw)
            first = int(draw.integers(0, max(1, len(track.curves) - _FRAMES + 1)))
            truth = torch.from_numpy(track.curves[first : first + _FRAMES]).to(device)
            mel = _mel(track)[:, : 2 * audible].to(device)
            read, here, slots = listener(mel, _indices(track, first, first + len(truth)).to(device), at)
            wanted = torch.from_numpy(track.curves[slot_frames(len(track.curves))[: track.steps]]).flatten(1).to(device)
            both = importance.repeat(_SLOTS)
            losses.append(((here[: track.steps] - _step_curves(track).to(device)).square().mean(0) * importance).sum())
            losses.append(((read - truth).square().mean(0) * importance).sum())
            losses.append(((slots[: track.steps] - wanted).square() * both).mean())
        return torch.stack(losses).sum() / _BATCH

    # Sure attention leaves numbers too small to be normal, which are slow, and only the calling thread is told to drop them.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        finished = path.exists() and torch.load(path, weights_only=True)["step"] == steps
        trained = train(path, listener, loss_of, steps=steps, rate=3e-3, average=0.99, muon=_inner, device=device)
        if not finished:
            _report(trained, tracks[-_HELD_OUT:])
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
    return trained.encoder


def _inner(name: str) -> bool:
    """Whether a matrix is one of the layers', of which Muon makes more than AdamW does; not a table or a last layer."""
    return name.startswith(("encoder.layers.", "attention.", "mix."))


def _step_curves(track: Track) -> Tensor:
    """Aperture and width at every step (steps, 2): in the middle of the frames, which are the odd ones, and between them."""
    at = np.clip((np.arange(track.steps) - 1) * FPS / 50, 0, len(track.curves) - 1)
    return torch.from_numpy(np.stack([np.interp(at, np.arange(len(track.curves)), c) for c in track.curves.T], 1)).float()


def _cut(track: Track, draw: np.random.Generator) -> tuple[int, int]:
    """How many steps to hear of the window, the track and some of the silence behind it, and where they stand in it.

    A track may stand anywhere where its frames keep their slots.
    """
    period = _SLOTS * 50 // FPS
    steps = min(STEPS_PER_WINDOW, track.steps + int(draw.integers(0, 100)))
    return steps, period * int(draw.integers(0, (STEPS_PER_WINDOW - steps) // period + 1))


@torch.inference_mode()
def hear(encoder: WhisperEncoder, track: Track, frame: int, count: int) -> Tensor:
    """The speech (count, 10 * (layers + 1), D) of ``count`` video frames of a track from ``frame`` on."""
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
