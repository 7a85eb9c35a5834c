"""The two small networks that judge sync, in numpy: one reads lips off a picture, one says how well lips and sound agree.

Knows their shapes and their file; ``nano/sync`` trains them. No torch: whoever decodes and encodes has none loaded. A picture
is read alone, never in a batch, so that no bit depends on which others were read with it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.resources import files

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors.numpy import load

__all__ = ["EYE_STRIDES", "HEAR_STRIDES", "WATCH_STRIDES", "Floats", "Weights", "agreement", "embed", "look", "shipped_weights"]

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
"""Name -> float32 array; ``eye.0.weight`` and the like."""

EYE_STRIDES = (1, 2, 1, 2)
"""Of the layers that look at a picture, each 3 x 3; what the first one gives is halved by means: small moves matter less."""
HEAR_STRIDES = (1, 2, 2, 1, 1)
"""Of the layers that hear log-mel: 100 columns per second become 25."""
WATCH_STRIDES = (1, 1, 1)


@functools.cache
def shipped_weights() -> Weights:
    """The weights that come with the package."""
    content = (files(__package__ or "") / "weights.safetensors").read_bytes()
    return {name: value.astype(np.float32) for name, value in load(content).items()}


def look(weights: Weights, picture: Floats) -> Floats:
    """What the lips of one normalised picture (3, H, W) do: three numbers, of which ``lips`` knows the meaning."""
    state = picture
    for number, stride in enumerate(EYE_STRIDES):
        state = np.maximum(_filtered(state, weights[f"eye.{number}.weight"], weights[f"eye.{number}.bias"], stride), 0)
        if not number:
            state = _halved(state)
    hidden = np.maximum(weights["read.0.weight"] @ state.ravel() + weights["read.0.bias"], 0)
    return weights["read.1.weight"] @ hidden + weights["read.1.bias"]


def embed(weights: Weights, name: str, curves: Floats) -> Floats:
    """``curves`` (channels, N) as unit vectors (K, M), one for each 25th of a second, by the network ``hear`` or ``watch``."""
    strides = HEAR_STRIDES if name == "hear" else WATCH_STRIDES
    state = curves
    for number, stride in enumerate(strides):
        if number:
            state = _gelu(state)
        state = _convolved(state, weights[f"{name}.{number}.weight"], weights[f"{name}.{number}.bias"], stride)
    return state / np.maximum(np.linalg.norm(state, axis=0), 1e-12)


def agreement(weights: Weights, watched: Floats, heard: Floats, reach: int) -> Floats:
    """How well lips and sound (K, M) agree at offsets from ``-reach`` to ``reach``, summed over time: float32 (2 reach + 1,).

    Above 0 the lips are late.
    """
    count = watched.shape[1]
    sums = np.zeros(2 * reach + 1, np.float32)
    for place, late in enumerate(range(-reach, reach + 1)):
        if abs(late) < count:
            lips = watched[:, max(0, late) : count + min(0, late)]
            sums[place] = np.sum(lips * heard[:, max(0, -late) : count - max(0, late)])
    return sums * np.exp(weights["scale"])


def _filtered(picture: Floats, weight: Floats, bias: Floats, stride: int) -> Floats:
    """A layer of 3 x 3 filters (out, in, 3, 3) over a picture (in, H, W), with a border of zeros."""
    padded = np.pad(picture, ((0, 0), (1, 1), (1, 1)))
    around = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]  # type: ignore[call-overload]
    channels, height, width = around.shape[:3]
    columns = around.transpose(0, 3, 4, 1, 2).reshape(channels * 9, height * width)
    return (weight.reshape(len(weight), -1) @ columns + bias[:, None]).reshape(-1, height, width)


def _halved(state: Floats) -> Floats:
    """The means of 2 x 2."""
    channels, height, width = state.shape
    return state.reshape(channels, height // 2, 2, width // 2, 2).mean((2, 4), dtype=np.float32)


def _convolved(curves: Floats, weight: Floats, bias: Floats, stride: int) -> Floats:
    """A layer of filters (out, in, width) over curves (in, N), with a border of zeros."""
    width = weight.shape[2]
    padded = np.pad(curves, ((0, 0), (width // 2, width // 2)))
    around = sliding_window_view(padded, width, axis=1)[:, ::stride]
    columns = around.transpose(0, 2, 1).reshape(-1, around.shape[1])
    return weight.reshape(len(weight), -1) @ columns + bias[:, None]


def _gelu(state: Floats) -> Floats:
    """By tanh, as it is trained."""
    return 0.5 * state * (1 + np.tanh(np.float32(0.7978845608) * (state + np.float32(0.044715) * state**3)))
