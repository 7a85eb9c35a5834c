"""Group norm without copies, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from latentsync_ray.models.latentsync.norms import LastNorm, normed, prepare_norms

ERROR = {torch.float32: 1e-5, torch.bfloat16: 0.04, torch.float16: 0.005}
"""Largest that is allowed: for half formats, half a step of numbers about 8."""


def norm_of(dtype: torch.dtype) -> nn.GroupNorm:
    draw = torch.Generator().manual_seed(1)
    norm = nn.GroupNorm(8, 64)
    for each in (norm.weight, norm.bias):
        nn.init.normal_(each, generator=draw)
    norm = norm.to(dtype)
    prepare_norms(norm)
    return norm


@pytest.mark.parametrize("offset", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("dtype", ERROR)
@torch.inference_mode()
def test_it_is_as_exact_as_its_format(dtype: torch.dtype, offset: float) -> None:
    norm = norm_of(dtype)
    tokens = (torch.randn(2, 4096, 64, generator=torch.Generator().manual_seed(2)) + offset).to(dtype)
    weight, bias = norm.weight.double(), norm.bias.double()
    expected = functional.group_norm(tokens.double().transpose(1, 2), 8, weight, bias, norm.eps).transpose(1, 2)
    found = normed(norm, tokens)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < ERROR[dtype]


@pytest.mark.parametrize("dtype", ERROR)
@torch.inference_mode()
def test_of_one_colour_the_bias_is_left(dtype: torch.dtype) -> None:
    norm = norm_of(dtype)
    torch.testing.assert_close(
        normed(norm, torch.full((1, 64, 64), 3.0, dtype=dtype)), norm.bias.expand(1, 64, 64), atol=0.02, rtol=0
    )


@torch.inference_mode()
def test_pictures_keep_their_shape() -> None:
    norm, pictures = nn.GroupNorm(8, 64), torch.randn(2, 64, 5, 7)
    expected = norm(pictures)
    torch.testing.assert_close(LastNorm(norm)(pictures), expected, atol=1e-5, rtol=0)
