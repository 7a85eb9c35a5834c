"""The models that have a name. A new version is one entry in ``MODELS``. Knows no torch and touches no file."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

from latentsync_ray.model.options import UNetConfig, WhisperSize

__all__ = ["MODELS", "Licence", "ModelSpec"]


@dc.dataclass(frozen=True)
class Licence:
    """What a part of a model may be used for, as its publisher says."""

    part: str
    name: str
    """As published, or ``unknown``."""
    source: str = ""
    """Where that was read."""


_CODE = Licence("code", "Apache-2.0", "github.com/bytedance/LatentSync")
_WHISPER = Licence("speech encoder", "MIT", "github.com/openai/whisper")
_VAE = Licence("autoencoder", "MIT", "huggingface.co/stabilityai/sd-vae-ft-mse")


def _official(version: str) -> tuple[Licence, ...]:
    page = f"huggingface.co/ByteDance/LatentSync-{version}"
    return (Licence("UNet", "openrail++ (restricts uses)", page), _WHISPER, _VAE, _CODE)


@dc.dataclass(frozen=True)
class ModelSpec:
    """What has to be known of a model before its weights are read."""

    name: str
    resolution: int
    """Side of the aligned face in px."""
    source: str = ""
    """Folder, URI or ``hf://owner/name[@revision]`` of the weights; empty: drawn from ``seed``."""
    unet: UNetConfig = dc.field(default_factory=UNetConfig)
    vae: str = "hf://stabilityai/sd-vae-ft-mse@31f26fdeee1355a5c34592e401dd41e45d25a493"
    """Where the autoencoder is taken from when ``source`` has no ``vae`` folder."""
    whisper: WhisperSize = dc.field(default_factory=WhisperSize)
    """Sizes of the speech encoder of a model without files; others say it in their files."""
    seed: int = 0
    megabytes: int = 0
    """To download, all files."""
    licences: tuple[Licence, ...] = ()
    note: str = ""
    """What the command line tells whenever it is used; empty: nothing."""


_SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "nano"

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        # Pinned, so that the same name is the same weights: commits of the repositories on Hugging Face.
        ModelSpec(
            "latentsync-1.6",
            512,
            "hf://ByteDance/LatentSync-1.6@c42c7e6c8e9c213626389fa7d9a3c444b8536353",
            megabytes=5480,
            licences=_official("1.6"),
        ),
        ModelSpec(
            "latentsync-1.5",
            256,
            "hf://ByteDance/LatentSync-1.5@32a20d29aead0498e3e885e90dbbe8027da1b61b",
            megabytes=5480,
            licences=_official("1.5"),
        ),
        ModelSpec(
            "nano",
            128,
            str(_SHIPPED),
            unet=UNetConfig(
                block_out_channels=(32, 64, 64, 64),
                layers_per_block=1,
                norm_num_groups=16,
                heads=2,
                audio_width=96,
                motion_heads=2,
            ),
            whisper=WhisperSize(width=96, heads=8, layers=3),
            licences=(Licence("all parts", "Apache-2.0", "this package, which contains it"),),
            note="nano is made for trying and testing, on the shipped portrait; on other faces it fails. "
            "Models for real footage: latentsync-ray models",
        ),
        ModelSpec(
            "tiny-random",
            128,
            unet=UNetConfig(block_out_channels=(32, 32, 32, 64), norm_num_groups=8, heads=2, audio_width=64, motion_heads=2),
            whisper=WhisperSize(width=64, heads=2, layers=2),
            seed=1247,
            licences=(Licence("all parts", "none needed", "random numbers: mouths become noise"),),
        ),
    )
}
