"""What a byte holds of a new face."""

from __future__ import annotations

import numpy as np
import torch

from latentsync_ray.levels import from_codes, to_codes, to_uint8


def codes_of(values: np.ndarray) -> np.ndarray:
    """What is left of them."""
    return from_codes(to_codes(torch.from_numpy(values)).numpy())


def test_to_uint8_clamps_and_rounds() -> None:
    assert to_uint8(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


def test_codes_keep_what_lies_beyond_black_and_white() -> None:
    values = np.linspace(-2.7, 2.7, 4001).astype(np.float32)
    kept = codes_of(values)
    error = np.abs(kept - values) * 127.5
    inside = np.abs(values) <= 1
    assert error[inside].max() < 0.65, "levels"
    assert error.max() < 8
    assert error[np.abs(values) < 1.1].max() < 2, "the nearer, the finer"
    assert (np.diff(kept) >= 0).all()
    assert codes_of(np.array([-1.0, 1.0], np.float32)).tolist() == [-1, 1]
    assert np.abs(codes_of(np.array([-9.0, 9.0], np.float32)) - (-2.757, 2.757)).max() < 0.01


def test_codes_come_back_as_themselves() -> None:
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_codes(torch.from_numpy(from_codes(codes))).numpy(), codes)
