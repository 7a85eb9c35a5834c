"""Weights drawn from a seed, for models that need no files.

Drawn by numpy's ``RandomState``, whose stream is frozen for good, and by name: neither a newer library nor another order of
modules changes them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["draw_weights"]


def draw_weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """A float32 state dict for ``module`` (which may be on the meta device) under its own names.

    Matrices are normal with variance 1 / fan-in, so that activations keep their scale; norms start at 1, biases at 0.
    """
    random = np.random.RandomState(seed)
    drawn: dict[str, Tensor] = {}
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.ndim > 1:
            values = random.standard_normal(tuple(tensor.shape)) / math.sqrt(tensor[0].numel())
        else:
            values = np.full(tuple(tensor.shape), float(name.endswith("weight")))
        drawn[name] = torch.from_numpy(values.astype(np.float32))
    return drawn
