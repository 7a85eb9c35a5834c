"""A small training that several processes can do: what is spawned has to be importable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latentsync_ray.nano.training.loop import train

STEPS = 30


def regress(path: Path, draws: int = 1, steps: int = STEPS) -> nn.Module:
    """A matrix that learns to be zero; ``draws`` batches a step, those that so many processes would draw."""
    torch.manual_seed(0)
    network = nn.Linear(3, 3)

    def loss_of(draw: np.random.Generator) -> Tensor:
        sources = [draw, *(np.random.default_rng((31, loss_of.step, rank)) for rank in range(1, draws))]
        loss_of.step += 1
        inputs = [torch.from_numpy(source.normal(size=(8, 3)).astype(np.float32)) for source in sources]
        return torch.stack([network(each).square().mean() for each in inputs]).mean()

    loss_of.step = 0
    return train(path, network, loss_of, steps=steps, rate=1e-2, muon=lambda name: True, device=torch.device("cpu"))
