"""The networks as the file that ships: half precision, with what they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from torch import nn

from latentsync_ray.sync.networks import Weights

__all__ = ["weights_of", "write_weights"]


def weights_of(*networks: nn.Module) -> dict[str, np.ndarray]:
    """The weights of trained networks, as they will be read back: float32 that went through half precision."""
    states = [network.state_dict() for network in networks]
    return {name: _halved(value.numpy()) for state in states for name, value in state.items()}


def write_weights(path: Path, weights: Weights, facts: Mapping[str, str]) -> None:
    """Write one safetensors file; ``facts`` become its metadata."""
    draft = path.with_suffix(".draft")
    save_file({name: np.asarray(value).astype(np.float16, order="C") for name, value in weights.items()}, draft, dict(facts))
    draft.replace(path)


def _halved(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float16).astype(np.float32)
