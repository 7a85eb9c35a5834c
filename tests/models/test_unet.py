"""The UNet against the official one: small copies always, every golden case where the full set is there."""

from __future__ import annotations

import dataclasses as dc
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from whole_unet import SMALL, VARIANTS, run_variant

from latentsync_ray.models.latentsync.checkpoint import load_unet, official_name, read_checkpoint
from latentsync_ray.models.latentsync.options import Motion, UNetConfig
from latentsync_ray.models.latentsync.unet import LatentSyncUNet, sinusoid

CASES = ["b1_f16_16x16", "b2_f16_16x16", "b1_f5_16x16", "b1_f4_16x24", "b1_f3_32x32", "b1_f2_12x20", "b1_f1_8x8",
         "b2_f5_8x8_tvec", "b1_f24_16x16"]  # fmt: skip


def watch(unet: LatentSyncUNet, names: list[str]) -> dict[str, Tensor]:
    """Filled with the outputs of these modules when the UNet runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
            seen[name] = output if isinstance(output, Tensor) else output[0]

        unet.get_submodule(name).register_forward_hook(hook)

    for name in names:
        keep(name)
    return seen


def as_frames(tensor: Tensor, batch: int) -> Tensor:
    """(B*F, C, h, w) as (B, C, F, h, w)."""
    return tensor.unflatten(0, (batch, -1)).transpose(1, 2) if tensor.ndim == 4 else tensor


@torch.inference_mode()
def test_first_layers_match_the_official_ones(golden: Path) -> None:
    """Shows all three changes: norms across frames, norms per frame, speech per frame."""
    tensors = load_file(golden / "model/first_layers.safetensors")
    unet = LatentSyncUNet(UNetConfig.from_official(json.loads((golden / "model/first_layers.json").read_text()))).eval()
    names = {official_name(name): name for name in unet.state_dict()}
    found = {names[name]: tensor for name, tensor in tensors.items() if name in names}
    assert len(found) > 60
    unet.load_state_dict(unet.state_dict() | found)
    expected = {name.removeprefix("expected."): tensor for name, tensor in tensors.items() if name.startswith("expected.")}
    seen = watch(unet, list(expected))
    unet(tensors["sample"], tensors["timestep"], tensors["encoder_hidden_states"])
    for name, tensor in expected.items():
        got = as_frames(seen[name], 2)
        torch.testing.assert_close(got[:, :, [0, 4]] if got.ndim == 5 else got, tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", VARIANTS)
def test_whole_unet_is_unchanged(golden: Path, form: str) -> None:
    expected = load_file(golden / "model/whole_unet.safetensors")[form]
    torch.testing.assert_close(run_variant(form), expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def official(reference: Path) -> UNetConfig:
    return UNetConfig.from_official(json.loads((reference / "unet_small/config.json").read_text()))


@pytest.fixture(scope="module")
def unet(reference: Path, official: UNetConfig) -> LatentSyncUNet:
    return load_unet(reference / "unet_small/unet_small.pt", official, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_official_cases(unet: LatentSyncUNet, reference: Path, case: str) -> None:
    tensors = load_file(reference / "unet_small/cases.safetensors")
    got = unet(*(tensors[f"{case}.{name}"] for name in ("sample", "timestep", "encoder_hidden_states")))
    torch.testing.assert_close(got, tensors[f"{case}.out"], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_official_forms(reference: Path, official: UNetConfig, tmp_path: Path) -> None:
    cases = load_file(reference / "unet_small/cases.safetensors")
    variants = load_file(reference / "unet_small/variants.safetensors")
    motions: dict[str, Motion] = {"no_motion": "none", "motion_decoder_only": "decoder", "no_audio": "all"}
    whole = read_checkpoint(reference / "unet_small/unet_small.pt")["state_dict"]
    unused = {"all": "(?!)", "decoder": r"down_blocks\..*\.motion_modules\.", "none": r".*\.motion_modules\."}
    checked = 0
    for key in sorted(name for name in variants if name.endswith(".out")):
        form, case, _ = key.split(".")
        options = dc.replace(official, motion=motions[form])
        fitting = {name: tensor for name, tensor in whole.items() if not re.match(unused[options.motion], name)}
        torch.save(fitting, tmp_path / "unet.pt")
        network = load_unet(tmp_path / "unet.pt", options, device=torch.device("cpu"), dtype=torch.float32)
        speech = None if form == "no_audio" else cases[f"{case}.encoder_hidden_states"]
        got = network(cases[f"{case}.sample"], cases[f"{case}.timestep"], speech)
        torch.testing.assert_close(got, variants[key], atol=1e-4, rtol=0)
        checked += 1
    assert checked >= 4


@torch.inference_mode()
def test_official_intermediates(reference: Path, official: UNetConfig) -> None:
    case = "b2_f5_8x8_tvec"
    inputs = load_file(reference / "unet_small/cases.safetensors")
    expected = load_file(reference / f"unet_small/intermediates_{case}.safetensors")
    network = load_unet(reference / "unet_small/unet_small.pt", official, device=torch.device("cpu"), dtype=torch.float32)
    seen = watch(network, list(expected))
    network(*(inputs[f"{case}.{name}"] for name in ("sample", "timestep", "encoder_hidden_states")))
    assert len(expected) == 16
    for name, tensor in expected.items():
        scale = max(1.0, tensor.abs().max().item())
        torch.testing.assert_close(as_frames(seen[name], 2), tensor, atol=1e-4 * scale, rtol=0)


@torch.inference_mode()
def test_frames_of_a_window_belong_together_and_windows_do_not() -> None:
    torch.manual_seed(0)
    network = LatentSyncUNet(SMALL).eval()
    sample, speech = torch.randn(2, 13, 4, 8, 8), torch.randn(2, 4, 30, 64)
    both = network(sample, 5, speech)
    torch.testing.assert_close(both[1:], network(sample[1:], 5, speech[1:]), atol=1e-5, rtol=0)
    assert (both[:1, :, :2] - network(sample[:1, :, :2], 5, speech[:1, :2])).abs().max() > 1e-2


@pytest.mark.parametrize("frames", [0, 25])
def test_frames_beyond_the_position_table(frames: int) -> None:
    network = LatentSyncUNet(SMALL)
    with pytest.raises(ValueError, match="temporal window of 1 to 24"):
        network(torch.zeros(1, 13, frames, 8, 8), 1, torch.zeros(1, frames, 30, 64))


def test_sinusoid() -> None:
    table = sinusoid(24, 8)
    assert table[:2, 0].tolist() == pytest.approx([0, 0.841471])
    assert table[3, 4:6].tolist() == pytest.approx([0.0299955, 0.99955])
