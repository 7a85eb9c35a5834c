"""The finished model as a folder that the package's own loader reads, in half precision, with its card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from latentsync_ray.models.latentsync.checkpoint import official_name
from latentsync_ray.models.latentsync.networks import AutoencoderKL, WhisperEncoder
from latentsync_ray.models.latentsync.specs import ModelSpec
from latentsync_ray.models.latentsync.unet import LatentSyncUNet

__all__ = ["megabytes", "write_folder"]


def write_folder(
    folder: Path,
    spec: ModelSpec,
    *,
    unet: LatentSyncUNet,
    whisper: WhisperEncoder,
    vae: AutoencoderKL,
    facts: Mapping[str, object],
) -> None:
    """Write the three networks under official names, each with what describes it, and a card that is still without figures.

    ``facts`` are what ``card.md`` leaves open.
    """
    for place in (folder, folder / "whisper", folder / "vae"):
        place.mkdir(parents=True, exist_ok=True)
    card = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card.format_map(facts), encoding="utf-8")
    _save(unet, folder / "unet.safetensors", official_name)
    _describe(folder / "latentsync.json", {"resolution": spec.resolution, "unet": spec.unet.to_official()})
    _save(whisper, folder / "whisper" / "model.safetensors", lambda name: f"encoder.{name}")
    sizes = spec.whisper
    _describe(
        folder / "whisper" / "config.json",
        {"d_model": sizes.width, "encoder_attention_heads": sizes.heads, "encoder_layers": sizes.layers},
    )
    _save(vae, folder / "vae" / "diffusion_pytorch_model.safetensors", str)
    _describe(folder / "vae" / "config.json", {name: value for name, value in vae.config.items() if not name.startswith("_")})


def megabytes(folder: Path) -> float:
    """Size of all files in ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _save(network: nn.Module, path: Path, name_in_file: Callable[[str], str]) -> None:
    save_file(
        {name_in_file(name): weights.to(torch.float16).contiguous() for name, weights in network.state_dict().items()}, path
    )


def _describe(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
