"""What the three trainings share: AdamW (Muon for some matrices), a cosine schedule, averaged weights, going on after stops."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from latentsync_ray.nano.training.together import average_gradients, place

__all__ = ["train"]

_Network = TypeVar("_Network", bound=nn.Module)

_SAVE_EVERY = 60.0
"""Seconds; what an interruption costs at most."""
_REPORTS = 40
_MUON_RATE = 0.02
"""Of K. Jordan's Muon, which turns each step of a matrix into the nearest orthogonal one."""


def train(
    path: Path,
    network: _Network,
    loss_of: Callable[[np.random.Generator], Tensor],
    *,
    steps: int,
    rate: float,
    average: float = 0.998,
    muon: Callable[[str], bool] = lambda name: False,
    device: torch.device,
    save_every: float = _SAVE_EVERY,
) -> _Network:
    """Lower ``loss_of(draw)`` for ``steps`` steps; returns a copy of ``network`` whose weights are averaged over time,
    on the CPU. ``network`` is moved to ``device``. ``muon`` says by its name which matrix Muon trains, and at its own rate.

    ``loss_of`` gets a generator that depends on the step alone, so an interrupted training, which goes on from ``path``, draws
    the same batches. A finished one is only loaded. Of processes that train ``together`` each draws others.
    """
    averaged = copy.deepcopy(network.to(device).train())
    chosen = [value for name, value in network.named_parameters() if value.ndim == 2 and muon(name)]
    others = [value for name, value in network.named_parameters() if value.ndim != 2 or not muon(name)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)]
    if chosen:
        optimizers.append(torch.optim.Muon(chosen, lr=_MUON_RATE, weight_decay=0))
    rates = [optimizer.defaults["lr"] for optimizer in optimizers]
    first, spent = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location=device)
        network.load_state_dict(saved["network"])
        averaged.load_state_dict(saved["averaged"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first, spent = saved["step"], saved["seconds"]
    began = written = time.monotonic()
    rank, processes = place()
    recent: list[float] = []
    for step in range(first, steps):
        torch.manual_seed(step * processes + rank)
        warm, progress = min(1.0, (step + 1) / 100), step / steps
        share = warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for optimizer, full in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full * share
        loss = loss_of(np.random.default_rng((31, step, rank)))
        network.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(network)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        _average(averaged, network, min(average, (step + 1) / (step + 10)))
        recent.append(loss.item())
        if rank:
            continue  # the first one reports and saves
        now, last = time.monotonic(), step == steps - 1
        if (step + 1) % max(1, steps // _REPORTS) == 0 or last:
            took = spent + now - began
            print(f"{path.stem}: step {step + 1} of {steps}, loss {np.mean(recent):.4f}, {took:.0f} s", flush=True)
            recent.clear()
        if now - written > save_every or last:
            state: dict[str, Any] = {"network": network.state_dict(), "averaged": averaged.state_dict()}
            state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
            _save(path, {**state, "step": step + 1, "seconds": spent + now - began})
            written = now
    return averaged.cpu().eval().requires_grad_(False)


def _average(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    with torch.no_grad():
        for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)


def _save(path: Path, state: dict[str, Any]) -> None:
    draft = path.with_suffix(".draft")
    torch.save(state, draft)
    draft.replace(path)
