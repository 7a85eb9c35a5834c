"""The model on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentsync_ray.models.latentsync.latents import Latents
from latentsync_ray.models.latentsync.model import LatentSync, load_model
from latentsync_ray.models.latentsync.vae import as_pictures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def made(model: LatentSync) -> np.ndarray:
    random = np.random.default_rng(0)
    faces = random.integers(0, 256, (1, 16, 64, 64, 3), np.uint8)
    features = model.features(random.standard_normal((1, 80, 3000)).astype(np.float32))
    tokens = model.audio_tokens(features, 0, np.arange(160, dtype=np.int32).reshape(16, 10))[None]
    return model.generate(faces, tokens, steps=4, guidance_scale=1.5, seed=1).cpu().numpy()


@pytest.mark.parametrize(("dtype", "worst"), [("float32", 0.02), ("bfloat16", 0.5), ("float16", 0.2)])
def test_as_on_the_cpu_and_the_same_twice(dtype: str, worst: float) -> None:
    expected = made(load_model("tiny-random", device="cpu"))
    model = load_model("tiny-random", device="cuda", dtype=dtype)  # pyright: ignore[reportArgumentType]
    first, second = made(model), made(model)
    assert np.array_equal(first, second)
    assert np.abs(first - expected).mean() < worst / 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@torch.inference_mode()
def test_a_picture_is_encoded_alike_in_any_company(dtype: str) -> None:
    model, random = load_model("nano", device="cuda", dtype=dtype), np.random.default_rng(0)  # pyright: ignore[reportArgumentType]
    pictures = as_pictures(random.integers(0, 256, (37, 128, 128, 3), np.uint8), model.device)
    together = model.encode(pictures)
    for count in (1, 2, 5, 16, 31):
        some = random.choice(len(pictures), count, replace=False)
        assert torch.equal(model.encode(pictures[some]), together[some]), count


def test_known_pictures_change_no_bit() -> None:
    model = load_model("tiny-random", device="cuda", dtype="bfloat16")
    first, known = made(model), made(model)
    assert model.latents.found == 16
    model.latents = Latents(0)
    assert np.array_equal(first, known)
    assert np.array_equal(first, made(model))
