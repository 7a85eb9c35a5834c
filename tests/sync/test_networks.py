"""The networks in numpy are those that were trained, whose modules say the same."""

from __future__ import annotations

import numpy as np
import torch

from latentsync_ray.nano.sync.ear import Ear
from latentsync_ray.nano.sync.eye import Eye
from latentsync_ray.sync.networks import agreement, embed, look, shipped_weights
from latentsync_ray.sync.score import REACH, prepared_lips, prepared_sound

WEIGHTS = shipped_weights()
DRAW = np.random.default_rng(2)


def loaded(network: torch.nn.Module) -> torch.nn.Module:
    network.load_state_dict({name: torch.from_numpy(WEIGHTS[name]) for name in network.state_dict()})
    return network.eval()


@torch.inference_mode()
def test_the_eye() -> None:
    pictures = DRAW.normal(size=(3, 3, 40, 56)).astype(np.float32)
    expected = loaded(Eye())(torch.from_numpy(pictures)).numpy()
    np.testing.assert_allclose([look(WEIGHTS, picture) for picture in pictures], expected, atol=1e-4)


@torch.inference_mode()
def test_the_ear() -> None:
    lips, sound = DRAW.normal(size=(70, 3)).astype(np.float32), DRAW.normal(size=(80, 280)).astype(np.float32)
    lips, sound = prepared_lips(lips), prepared_sound(sound)
    ear = loaded(Ear())
    expected = ear(torch.from_numpy(sound[None]), torch.from_numpy(lips[None])).numpy()[0, :-1]
    sums = agreement(WEIGHTS, embed(WEIGHTS, "watch", lips), embed(WEIGHTS, "hear", sound), REACH)
    np.testing.assert_allclose(sums + WEIGHTS["none"], expected, atol=1e-3)


def test_they_are_small() -> None:
    assert 50_000 < sum(value.size for value in WEIGHTS.values()) < 400_000
    assert all(np.isfinite(value).all() for value in WEIGHTS.values())
