"""Group norm where channels come last in memory, without copies."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LastNorm", "normed", "prepare_norms"]


def normed(norm: nn.GroupNorm, tokens: Tensor) -> Tensor:
    """Group norm of samples (N, n, C) over all n, after ``prepare_norms``.

    Torch's own copies such input, or loses digits on a CPU. float32 is centred before it is squared. Half formats are summed in
    float32, once each: their own rounding is the larger error as long as a group's mean is below ten times its spread.
    """
    known: Any = norm
    share = 1 / tokens.shape[1]
    if tokens.dtype == torch.float32:
        off = torch.sub(tokens, tokens.sum(1, keepdim=True) @ known.group_mean, alpha=share)
        spread = torch.add(known.eps_tensor, (off * off).sum(1, keepdim=True) @ known.group_mean, alpha=share)
        return torch.addcmul(norm.bias, off, norm.weight * spread.rsqrt())
    mean = tokens.sum(1, keepdim=True, dtype=torch.float32) @ known.group_mean * share
    squares = torch.linalg.vector_norm(tokens, dim=1, keepdim=True, dtype=torch.float32).square() @ known.group_mean
    spread = torch.addcmul(squares * share, mean, mean, value=-1).clamp_min(0) + known.eps_tensor
    scale = norm.weight * spread.rsqrt()
    return torch.addcmul(norm.bias - mean * scale, tokens, scale, out=torch.empty_like(tokens))


def prepare_norms(module: nn.Module) -> None:
    """Give every group norm in a module, or a norm itself, what ``normed`` needs."""
    for norm in module.modules():
        if isinstance(norm, nn.GroupNorm):
            where = norm.weight.device
            norm.register_buffer("group_mean", _group_mean(norm.num_channels, norm.num_groups, where), persistent=False)
            norm.register_buffer("eps_tensor", torch.tensor(norm.eps, device=where), persistent=False)


@cache
def _group_mean(width: int, groups: int, device: torch.device) -> Tensor:
    """The mean over the channels of a group, for each of them, as a matrix: float32 (C, C)."""
    size = width // groups
    group = torch.arange(width, device=device) // size
    return (group[:, None] == group).float() / size


class LastNorm(nn.Module):
    """Stands for ``norm`` on pictures (N, C, h, w), or their pixels (N, C, n)."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        prepare_norms(norm)
        self.norm = norm

    def forward(self, pictures: Tensor) -> Tensor:
        """Same shape; channels come last in memory."""
        return normed(self.norm, pictures.flatten(2).transpose(1, 2)).transpose(1, 2).view(pictures.shape)
