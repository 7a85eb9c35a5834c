from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentsync_ray.errors import CheckpointMismatch
from latentsync_ray.models.latentsync.synthetic import draw_weights
from latentsync_ray.models.latentsync.vae import PictureCodec, build_small_vae, load_vae

CPU = torch.device("cpu")


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return draw_weights(build_small_vae(), 0)


def save(weights: dict[str, Tensor], folder: Path) -> tuple[Path, Path]:
    save_file(weights, folder / "vae.safetensors")
    (folder / "config.json").write_text(json.dumps(dict(build_small_vae().config)))
    return folder / "vae.safetensors", folder / "config.json"


@torch.inference_mode()
def test_slices_do_not_matter_and_scales_cancel(weights: dict[str, Tensor], tmp_path: Path) -> None:
    vae = load_vae(*save(weights, tmp_path), device=CPU, dtype=torch.float32)
    pictures = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one_by_one, together = PictureCodec(vae, 1024), PictureCodec(vae, 64)
    latents = together.encode(pictures)
    assert latents.shape == (5, 4, 8, 8)
    torch.testing.assert_close(latents, vae.encode(pictures, return_dict=False)[0].mode() * 0.18215, atol=1e-5, rtol=0)
    torch.testing.assert_close(one_by_one.encode(pictures), latents, atol=1e-5, rtol=0)
    decoded = together.decode(latents)
    assert decoded.shape == pictures.shape
    torch.testing.assert_close(one_by_one.decode(latents), decoded, atol=1e-5, rtol=0)


def test_names_under_which_stable_diffusion_was_published(weights: dict[str, Tensor], tmp_path: Path) -> None:
    legacy = {}
    for name, tensor in weights.items():
        for current, old in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
            name = name.replace(current, old)
        legacy[name] = tensor
    assert legacy.keys() != weights.keys()
    vae = load_vae(*save(legacy, tmp_path), device=CPU, dtype=torch.float32)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in vae.state_dict().items())


def test_a_missing_key_is_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    del weights["decoder.conv_out.bias"]
    with pytest.raises(CheckpointMismatch, match=r"AutoencoderKL: decoder\.conv_out\.bias is missing"):
        load_vae(*save(weights, tmp_path), device=CPU, dtype=torch.float32)
