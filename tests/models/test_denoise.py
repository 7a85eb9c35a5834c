from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from whole_unet import SMALL, VARIANTS, drawn_unet

from latentsync_ray.models.latentsync.denoise import ddim, denoise, predict_noise, starting_noise
from latentsync_ray.models.latentsync.model import LatentSync
from latentsync_ray.models.latentsync.options import UNetConfig
from latentsync_ray.models.latentsync.unet import LatentSyncUNet


class Scripted:
    """Stands for a network: gives these answers in turn and remembers what it was asked."""

    dtype = torch.float32

    def __init__(self, *answers: Tensor) -> None:
        self.answers, self.asked = list(answers), cast(list[Any], [])

    def __call__(self, *question: Any) -> Tensor:
        self.asked.append(question)
        return self.answers.pop(0)


def scripted(*answers: Tensor) -> Any:
    return cast(LatentSyncUNet, Scripted(*answers))


@pytest.mark.parametrize(("steps", "timesteps"), [(4, [751, 501, 251, 1]), (20, list(range(951, 0, -50)))])
def test_timesteps(steps: int, timesteps: list[int]) -> None:
    assert ddim(steps).timesteps.tolist() == timesteps


@pytest.mark.parametrize("steps", [0, 1000])
def test_impossible_steps(steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 999"):
        ddim(steps)


def test_official_run_of_one_frame(golden: Path) -> None:
    """Guidance and DDIM on what the official UNet said."""
    tensors = load_file(golden / "model/denoise.safetensors")
    unet = scripted(*(tensors[f"{step}.unet"] for step in range(4)))
    nothing = torch.zeros(1, 9, 1, 16, 16), torch.ones(1, 1, 30, 64)
    every = denoise(unet, tensors["noise"], conditions=nothing[0], speech=nothing[1], steps=4, guidance_scale=1.5)
    for step, latents in enumerate(every):
        torch.testing.assert_close(latents, tensors[f"{step}.latents"], atol=1e-4, rtol=0)
        guided = predict_noise(
            scripted(tensors[f"{step}.unet"]), latents, 1, conditions=nothing[0], speech=nothing[1], guidance_scale=1.5
        )
        torch.testing.assert_close(guided, tensors[f"{step}.predicted"], atol=1e-5, rtol=0)
    assert [timestep for _, timestep, _ in unet.asked] == [751, 501, 251, 1]


def test_guidance_asks_first_without_speech() -> None:
    unet = scripted(torch.cat([torch.zeros(2, 4, 3, 1, 1), torch.ones(2, 4, 3, 1, 1)]))
    latents, conditions, speech = torch.randn(2, 4, 3, 1, 1), torch.randn(2, 9, 3, 1, 1), torch.randn(2, 3, 5, 6)
    got = predict_noise(unet, latents, 9, conditions=conditions, speech=speech, guidance_scale=1.5)
    assert (got == 1.5).all()
    sample, _, asked = unet.asked[0]
    assert not asked[:2].any()
    assert torch.equal(asked[2:], speech)
    assert torch.equal(sample[:2], sample[2:])
    assert torch.equal(sample[:2], torch.cat([latents, conditions], dim=1))


def test_guidance_of_one_asks_once() -> None:
    unet = scripted(torch.ones(1, 4, 1, 1, 1))
    predict_noise(unet, torch.zeros(1, 4, 1, 1, 1), 9, conditions=torch.zeros(1, 9, 1, 1, 1), speech=torch.ones(1, 1, 2, 3),
                  guidance_scale=1.0)  # fmt: skip
    assert unet.asked[0][2].shape == (1, 1, 2, 3)


def test_noise_of_a_seed() -> None:
    noise = starting_noise(1247, 8, 8)
    assert noise.shape == (1, 4, 1, 8, 8)
    assert torch.equal(noise, starting_noise(1247, 8, 8))
    assert not torch.equal(noise, starting_noise(1248, 8, 8))
    assert starting_noise(2**63 - 1, 8, 8).isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_official_predictions(small_model: LatentSync, whole: dict[str, Tensor], guidance: float) -> None:
    """The noise in the official latents of every step."""
    latents = whole["noise"].expand(1, -1, 16, -1, -1)
    conditions, speech = official_conditions(whole), whole["whisper_chunks"][None, :16]
    for step, timestep in enumerate(whole["timesteps"].tolist()):
        at = f"g{guidance}.chunk0.step{step}"
        got = predict_noise(small_model.unet, latents, timestep, conditions=conditions, speech=speech, guidance_scale=guidance)
        torch.testing.assert_close(got[:, :, [0, 5, 10, 15]], whole[f"{at}.eps"], atol=1e-4, rtol=0)
        latents = whole[f"{at}.latents"]


@torch.inference_mode()
def test_official_latents(small_model: LatentSync, whole: dict[str, Tensor]) -> None:
    """A run of our own, step by step (every frame; the faces of both runs are compared in ``test_latentsync.py``)."""
    conditions, speech = official_conditions(whole), whole["whisper_chunks"][None, :16]
    every = denoise(small_model.unet, whole["noise"], conditions=conditions, speech=speech, steps=4, guidance_scale=1.0)
    for step, latents in enumerate(every):
        torch.testing.assert_close(latents, whole[f"g1.0.chunk0.step{step}.latents"], atol=1e-3, rtol=0)


def official_conditions(whole: dict[str, Tensor]) -> Tensor:
    masked, reference = (whole[f"g1.0.chunk0.{name}_latents"] for name in ("masked_image", "ref"))
    return torch.cat([whole["mask_latent"].expand(1, 1, 16, -1, -1), masked, reference], dim=1)


def asked_of(unet: LatentSyncUNet, monkeypatch: pytest.MonkeyPatch, *, steps: int, interval: int) -> tuple[list[str], Tensor]:
    """Which steps ran the whole network, and the latents."""
    asked: list[str] = []
    whole, cached = LatentSyncUNet.forward, LatentSyncUNet.from_features
    monkeypatch.setattr(LatentSyncUNet, "forward", lambda *question: asked.append("whole") or whole(*question))
    monkeypatch.setattr(LatentSyncUNet, "from_features", lambda *question: asked.append("cached") or cached(*question))
    draw = torch.Generator().manual_seed(3)
    conditions, speech = torch.randn(2, 9, 4, 8, 8, generator=draw), torch.randn(2, 4, 30, 64, generator=draw)
    with torch.inference_mode():
        *_, latents = denoise(
            unet,
            starting_noise(5, 8, 8),
            conditions=conditions,
            speech=speech,
            steps=steps,
            guidance_scale=1.5,
            cache_interval=interval,
        )
    return asked, latents


def test_deep_cache_runs_the_whole_network_every_third_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, latents = asked_of(drawn_unet(SMALL), monkeypatch, steps=20, interval=3)
    assert asked == ["whole" if step % 3 == 0 else "cached" for step in range(20)]
    assert (asked.count("whole"), asked.count("cached")) == (7, 13)
    assert latents.isfinite().all()


def test_deep_cache_of_one_step_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, exact = asked_of(drawn_unet(SMALL), monkeypatch, steps=4, interval=1)
    assert asked == ["whole"] * 4
    monkeypatch.undo()
    _, cached = asked_of(drawn_unet(SMALL), monkeypatch, steps=4, interval=2)
    assert not torch.equal(exact, cached)


@pytest.mark.parametrize("form", VARIANTS)
@torch.inference_mode()
def test_features_of_the_same_step_give_the_same_noise(form: str) -> None:
    unet, draw = drawn_unet(VARIANTS[form]), torch.Generator().manual_seed(3)
    sample, speech = torch.randn(2, 13, 4, 8, 8, generator=draw), torch.randn(2, 4, 30, 64, generator=draw)
    question = (sample, 321, speech if VARIANTS[form].audio else None)
    whole, features = unet.with_features(*question)
    assert torch.equal(whole, unet(*question))
    torch.testing.assert_close(unet.from_features(features, *question), whole, atol=1e-5, rtol=0)


def test_deep_cache_takes_two_fifths_of_the_arithmetic() -> None:
    """At 256 px, 20 steps. The official script takes 42 %: it runs two temporal layers whose input has not changed."""
    with torch.device("meta"):
        unet: Any = nn.Module.to(LatentSyncUNet(UNetConfig()), "meta")  # the position tables too
        sample, speech = torch.empty(1, 13, 16, 32, 32), torch.empty(1, 16, 50, 384)
        features = torch.empty(16, 320, 32, 32)
    counts = []
    for ask in (lambda: unet(sample, 1, speech), lambda: unet.from_features(features, sample, 1, speech)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            ask()
        counts.append(counter.get_total_flops())
    whole, cached = counts
    assert 0.385 <= (7 * whole + 13 * cached) / (20 * whole) <= 0.40
