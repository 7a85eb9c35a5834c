from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from whole_unet import SMALL, drawn_unet

from latentsync_ray.models.latentsync.counting import flop_counter
from latentsync_ray.models.latentsync.denoise import ddim, denoise, pushed, starting_noise
from latentsync_ray.models.latentsync.model import LatentSync
from latentsync_ray.models.latentsync.options import UNetConfig
from latentsync_ray.models.latentsync.sampling import Question, SamplingUNet
from latentsync_ray.models.latentsync.unet import LatentSyncUNet


class Scripted:
    """Stands for a network: gives these answers in turn and remembers what it was asked."""

    def __init__(self, *answers: Tensor) -> None:
        self.answers, self.asked, self.told = list(answers), cast(list[Any], []), cast(Any, {})

    def about(self, *_: Tensor, **told: Any) -> Scripted:
        self.told = told
        return self

    def __call__(self, *question: Any, reuse: bool) -> Tensor:
        self.asked.append((*question, reuse))
        return self.answers.pop(0)


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
    unet = Scripted(*(tensors[f"{step}.unet"] for step in range(4)))
    nothing = torch.zeros(1, 9, 1, 16, 16), torch.ones(1, 1, 30, 64)
    every = denoise(
        cast(SamplingUNet, unet), tensors["noise"], conditions=nothing[0], speech=nothing[1], steps=4, guidance_scale=1.5
    )
    for step, latents in enumerate(every):
        torch.testing.assert_close(latents, tensors[f"{step}.latents"], atol=1e-4, rtol=0)
        torch.testing.assert_close(pushed(tensors[f"{step}.unet"], 1.5), tensors[f"{step}.predicted"], atol=1e-5, rtol=0)
    assert unet.told["timesteps"].tolist() == [751, 501, 251, 1]
    assert unet.told["guided"]
    assert [(step, reuse) for _, step, reuse in unet.asked] == [(step, False) for step in range(4)]


@pytest.mark.parametrize(("scale", "guided"), [(1.0, False), (1.5, True)])
def test_the_prediction_without_speech_is_asked_for_when_it_is_needed(scale: float, guided: bool) -> None:
    unet, conditions, speech = Scripted(torch.ones(1 + guided, 4, 1, 1, 1)), torch.zeros(1, 9, 1, 1, 1), torch.ones(1, 1, 2, 3)
    noise = torch.zeros(1, 4, 1, 1, 1)
    list(denoise(cast(SamplingUNet, unet), noise, conditions=conditions, speech=speech, steps=1, guidance_scale=scale))
    assert unet.told["guided"] is guided
    assert len(unet.asked) == 1


def test_guidance_pushes_away_from_the_prediction_without_speech() -> None:
    both = torch.cat([torch.zeros(2, 4, 3, 1, 1), torch.ones(2, 4, 3, 1, 1)])
    assert (pushed(both, 1.5) == 1.5).all()


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
        question = small_model.sampler.about(conditions, speech, timesteps=torch.tensor([timestep]), guided=guidance > 1)
        got = pushed(question(latents, 0), guidance) if guidance > 1 else question(latents, 0)
        torch.testing.assert_close(got[:, :, [0, 5, 10, 15]], whole[f"{at}.eps"], atol=1e-4, rtol=0)
        latents = whole[f"{at}.latents"]


@torch.inference_mode()
def test_official_latents(small_model: LatentSync, whole: dict[str, Tensor]) -> None:
    """A run of our own, step by step (every frame; the faces of both runs are compared in ``test_latentsync.py``)."""
    conditions, speech = official_conditions(whole), whole["whisper_chunks"][None, :16]
    every = denoise(small_model.sampler, whole["noise"], conditions=conditions, speech=speech, steps=4, guidance_scale=1.0)
    for step, latents in enumerate(every):
        torch.testing.assert_close(latents, whole[f"g1.0.chunk0.step{step}.latents"], atol=1e-3, rtol=0)


def official_conditions(whole: dict[str, Tensor]) -> Tensor:
    masked, reference = (whole[f"g1.0.chunk0.{name}_latents"] for name in ("masked_image", "ref"))
    return torch.cat([whole["mask_latent"].expand(1, 1, 16, -1, -1), masked, reference], dim=1)


def sampled(unet: LatentSyncUNet, monkeypatch: pytest.MonkeyPatch, *, steps: int, interval: int) -> tuple[list[str], Tensor]:
    """Which steps ran the whole network, and the latents."""
    asked: list[str] = []
    inner = Question._inner
    monkeypatch.setattr(Question, "_inner", lambda *question: asked.append("inner") or inner(*question))
    outermost = Question._outermost
    monkeypatch.setattr(Question, "_outermost", lambda *question: asked.append("outermost") or outermost(*question))
    draw = torch.Generator().manual_seed(3)
    conditions, speech = torch.randn(2, 9, 4, 8, 8, generator=draw), torch.randn(2, 4, 30, 64, generator=draw)
    with torch.inference_mode():
        *_, latents = denoise(
            SamplingUNet(unet),
            starting_noise(5, 8, 8),
            conditions=conditions,
            speech=speech,
            steps=steps,
            guidance_scale=1.5,
            cache_interval=interval,
        )
    return asked, latents


def test_deep_cache_runs_the_whole_network_every_third_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, latents = sampled(copy.deepcopy(drawn_unet(SMALL)), monkeypatch, steps=20, interval=3)
    assert asked == [part for step in range(20) for part in (["inner", "outermost"] if step % 3 == 0 else ["outermost"])]
    assert (asked.count("inner"), asked.count("outermost")) == (7, 20)
    assert latents.isfinite().all()


def test_deep_cache_of_one_step_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, exact = sampled(copy.deepcopy(drawn_unet(SMALL)), monkeypatch, steps=4, interval=1)
    assert asked == ["inner", "outermost"] * 4
    monkeypatch.undo()
    _, cached = sampled(copy.deepcopy(drawn_unet(SMALL)), monkeypatch, steps=4, interval=2)
    assert not torch.equal(exact, cached)


@pytest.mark.parametrize(("side", "ours", "official"), [(32, 0.392, 0.416), (64, 0.398, 0.420)])
def test_deep_cache_takes_two_fifths_of_the_arithmetic(side: int, ours: float, official: float) -> None:
    """20 steps at 256 and 512 px. The official script runs two motion modules more, whose input has not changed."""
    with torch.device("meta"), torch.no_grad():
        unet: Any = nn.Module.to(LatentSyncUNet(UNetConfig()), "meta")  # the position tables too
        latents, conditions = torch.empty(1, 4, 16, side, side), torch.empty(1, 9, 16, side, side)
        question = SamplingUNet(unet).about(conditions, torch.empty(1, 16, 50, 384), timesteps=torch.zeros(1), guided=False)
        question(latents, 0)
        again = [(module, torch.empty(16, 320, side, side)) for module in unet.up_blocks[-1].motion_modules[:-1]]

    def counted(forward: Callable[[], Any]) -> int:
        with flop_counter() as counter, torch.no_grad():
            forward()
        return counter.get_total_flops()

    whole, cached = (counted(lambda reuse=reuse: question(latents, 0, reuse=reuse)) for reuse in (False, True))
    spared = sum(counted(lambda module=module, rows=rows: module(rows, num_frames=16)) for module, rows in again)
    shares = [(7 * whole + 13 * each) / (20 * whole) for each in (cached, cached + spared)]
    assert shares == pytest.approx([ours, official], abs=0.001)
