"""The network as it is sampled, against the form of it that is held against the official one."""

from __future__ import annotations

import copy
from typing import Any

import count_work
import pytest
import torch
from count_work import copies, dispatches
from torch import Tensor
from whole_unet import SMALL, VARIANTS, drawn_unet

from latentsync_ray.models.latentsync.counting import empty_model
from latentsync_ray.models.latentsync.model import load_model
from latentsync_ray.models.latentsync.sampling import Question, SamplingUNet
from latentsync_ray.models.latentsync.specs import MODELS

TIMESTEPS = torch.tensor([951, 321, 1])


def drawn(windows: int, *, frames: int = 4, size: tuple[int, int] = (16, 16)) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, conditions and speech."""
    draw = torch.Generator().manual_seed(3)
    latents, conditions = (torch.randn(windows, channels, frames, *size, generator=draw) for channels in (4, 9))
    return latents, conditions, torch.randn(windows, frames, 30, 64, generator=draw)


def asked(form: str, windows: int, *, guided: bool, **options: Any) -> tuple[Question, Tensor, Tensor]:
    """A question, its latents, and what the other form answers at the second timestep."""
    unet, (latents, conditions, speech) = copy.deepcopy(drawn_unet(VARIANTS[form])), drawn(windows, **options)
    heard = [torch.zeros_like(speech), speech] if guided else [speech]
    sample = torch.cat([latents, conditions], dim=1)
    expected = torch.cat([unet(sample, 321, each if VARIANTS[form].audio else None) for each in heard])
    return SamplingUNet(unet).about(conditions, speech, timesteps=TIMESTEPS, guided=guided), latents, expected


@pytest.mark.parametrize(
    ("windows", "guided"),
    [(1, False), (3, True), pytest.param(1, True, marks=pytest.mark.slow), pytest.param(3, False, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("form", VARIANTS)
@torch.inference_mode()
def test_it_predicts_the_same(form: str, windows: int, guided: bool) -> None:
    question, latents, expected = asked(form, windows, guided=guided)
    torch.testing.assert_close(question(latents, 1), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("frames", "size"), [(1, (16, 16)), (5, (16, 24)), (24, (16, 16))])
@torch.inference_mode()
def test_of_any_size(frames: int, size: tuple[int, int]) -> None:
    question, latents, expected = asked("all", 1, guided=True, frames=frames, size=size)
    torch.testing.assert_close(question(latents, 1), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_asking_leaves_everything_as_it_was() -> None:
    """Much of it works in place, on weights that it shares."""
    unet, (latents, conditions, speech) = copy.deepcopy(drawn_unet(SMALL)), drawn(2)
    sample, before = torch.cat([latents, conditions], dim=1), latents.clone()
    expected = unet(sample, 321, speech)
    question = SamplingUNet(unet).about(conditions, speech, timesteps=TIMESTEPS, guided=True)
    first = question(latents, 1).clone()
    question(latents, 0)
    assert torch.equal(question(latents, 1), first)
    assert torch.equal(latents, before)
    torch.testing.assert_close(unet(sample, 321, speech), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", VARIANTS)
@torch.inference_mode()
def test_what_is_reused_of_the_same_step_gives_the_same(form: str) -> None:
    question, latents, _ = asked(form, 2, guided=True)
    whole = question(latents, 1).clone()
    assert torch.equal(question(latents, 1, reuse=True), whole)
    assert not torch.equal(question(2 * latents, 1, reuse=True), question(2 * latents, 1))


@pytest.mark.parametrize("frames", [0, 25])
def test_frames_beyond_the_position_table(frames: int) -> None:
    _, conditions, speech = drawn(1, frames=frames)
    with pytest.raises(ValueError, match="temporal window of 1 to 24"):
        SamplingUNet(copy.deepcopy(drawn_unet(SMALL))).about(conditions, speech, timesteps=TIMESTEPS, guided=False)


@torch.inference_mode()
def test_a_cached_step_is_that_of_the_official_script() -> None:
    """There, resnets and attentions of the other layers give what they gave before; motion modules run again on just that."""
    official, (latents, conditions, speech) = copy.deepcopy(drawn_unet(SMALL)), drawn(1)
    question = SamplingUNet(copy.deepcopy(official)).about(conditions, speech, timesteps=TIMESTEPS, guided=False)
    last: Any = official.up_blocks[-1]
    cached: dict[Any, Any] = {}
    for layer in (*last.resnets[:-1], *last.attentions[:-1]):
        layer.register_forward_hook(lambda module, _, made: cached.setdefault(module, made))
    for sample, step, reuse in ((latents, 0, False), (2 * latents, 1, True)):
        expected = official(torch.cat([sample, conditions], dim=1), TIMESTEPS[step], speech)
        torch.testing.assert_close(question(sample, step, reuse=reuse), expected, atol=1e-4, rtol=0)
    cached.clear()
    exact = official(torch.cat([2 * latents, conditions], dim=1), TIMESTEPS[1], speech)
    assert (exact - expected).abs().max() > 1e-2


def test_hardly_anything_is_copied() -> None:
    """35 copies a forward are left, 57 in the full-size network; most of them hold what a linear layer adds its product to."""
    assert 0 < copies(load_model("tiny-random", device="cpu", dtype="float32")) <= 60


def test_a_window_takes_half_the_dispatches_of_the_other_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """The full-size network with four windows in a call. With 20 steps, 15 thousand a window against 55 thousand."""
    monkeypatch.setattr(count_work, "STEPS", 4)  # what is done once a call weighs more then
    now, before = dispatches(empty_model(MODELS["latentsync-1.5"]), windows=4)
    assert now <= 0.3 * before
