"""The models that have a name. A new version is one entry in ``MODELS``. Knows no torch and touches no file."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path

from latentsync_ray.licence import Licence
from latentsync_ray.models.latentsync.options import UNetConfig, WhisperSize

__all__ = ["MODELS", "PUBLISHED", "WINDOW", "Flops", "ModelSpec", "Published"]

WINDOW = 16
"""Frames per temporal window; the network's normalisation runs over all of them (``num_frames`` of the official code)."""


@dc.dataclass(frozen=True)
class Published:
    """A file as its publisher gave it out."""

    bytes: int
    sha256: str


_LATENTSYNC_16 = "hf://ByteDance/LatentSync-1.6@c42c7e6c8e9c213626389fa7d9a3c444b8536353"
_LATENTSYNC_15 = "hf://ByteDance/LatentSync-1.5@32a20d29aead0498e3e885e90dbbe8027da1b61b"
_VAE = "hf://stabilityai/sd-vae-ft-mse@31f26fdeee1355a5c34592e401dd41e45d25a493"

_WHISPER_TINY = Published(75_572_083, "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9")

PUBLISHED: dict[str, Mapping[str, Published]] = {
    _LATENTSYNC_16: {
        "latentsync_unet.pt": Published(5_072_222_488, "0a478e89eb660f82da4c35dbdde8a5adfb27f99d1b4e50edd03729e1e98316d3"),
        "whisper/tiny.pt": _WHISPER_TINY,
    },
    _LATENTSYNC_15: {
        "latentsync_unet.pt": Published(5_072_348_184, "6440b49a7ccceff56cdc001f5f17605216337f5bbd66fa360139768926e23f51"),
        "whisper/tiny.pt": _WHISPER_TINY,
    },
    _VAE: {
        "diffusion_pytorch_model.safetensors": Published(
            334_643_276, "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815"
        ),
        "config.json": Published(547, "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e"),
    },
}
"""Source -> its files. What bears a model's name is this, or is refused.

Revisions, sizes and hashes are those that several projects on GitHub pin or verify their downloads with, independently of each
other; Whisper's hash is part of the address that OpenAI's own code downloads it from.
"""


@dc.dataclass(frozen=True)
class Flops:
    """Floating-point operations of one window."""

    whole: int
    """One step that runs the whole network."""
    cached: int
    """One step that takes kept features."""
    around: int
    """All that is done once: pictures to latents and back, keys and values of the speech. Whisper is not counted."""
    encoding: int
    """Of that, pictures to latents: what a window is spared whose pictures were encoded before."""

    def of(self, *, steps: int, cache_interval: int) -> int:
        """All steps, and what is done once."""
        whole = -(-steps // cache_interval)
        return whole * self.whole + (steps - whole) * self.cached + self.around


@dc.dataclass(frozen=True)
class ModelSpec:
    """What has to be known of a model before its weights are read."""

    name: str
    resolution: int
    """Side of the aligned face in px."""
    source: str = ""
    """Folder, URI or ``hf://owner/name[@revision]`` of the weights; empty: drawn from ``seed``."""
    unet: UNetConfig = dc.field(default_factory=UNetConfig)
    vae: str = _VAE
    """Where the autoencoder is taken from when ``source`` has no ``vae`` folder."""
    whisper: WhisperSize = dc.field(default_factory=WhisperSize)
    """Sizes of the speech encoder of a model without files; others say it in their files."""
    seed: int = 0
    licences: tuple[Licence, ...] = ()
    flops: tuple[Flops, Flops] | None = None
    """Without guidance and with it, as ``counting.py`` counts them; None: it has to."""
    note: str = ""
    """What the command line tells whenever it is used; empty: nothing."""


_OFFICIAL_PARTS = (
    Licence("speech encoder", "MIT", "github.com/openai/whisper"),
    Licence("autoencoder", "MIT", "huggingface.co/stabilityai/sd-vae-ft-mse"),
    Licence("official code", "Apache-2.0", "github.com/bytedance/LatentSync"),
)
_SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "nano"

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "latentsync-1.6",
            512,
            _LATENTSYNC_16,
            flops=(
                Flops(
                    whole=17_609_267_200_000, cached=1_306_513_080_320, around=75_984_106_684_416, encoding=35_733_070_938_112
                ),
                Flops(
                    whole=34_770_642_370_560, cached=2_580_422_656_000, around=75_984_106_684_416, encoding=35_733_070_938_112
                ),
            ),
            licences=(
                Licence(
                    "weights",
                    "openrail++",
                    "huggingface.co/ByteDance/LatentSync-1.6",
                    note="read in a copy of that page: huggingface.co/lzphillipp/comfyui-models, checkpoints/README.md",
                ),
                *_OFFICIAL_PARTS,
            ),
        ),
        ModelSpec(
            "latentsync-1.5",
            256,
            _LATENTSYNC_15,
            flops=(
                Flops(whole=4_036_606_935_040, cached=262_257_213_440, around=18_698_290_593_792, encoding=8_727_109_304_320),
                Flops(whole=7_961_199_083_520, cached=516_321_771_520, around=18_698_290_593_792, encoding=8_727_109_304_320),
            ),
            licences=(Licence("weights", "openrail++", "huggingface.co/ByteDance/LatentSync-1.5"), *_OFFICIAL_PARTS),
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
            flops=(
                Flops(whole=5_030_494_208, cached=786_833_408, around=44_328_419_328, encoding=17_361_272_832),
                Flops(whole=9_834_119_168, cached=1_526_235_136, around=44_328_419_328, encoding=17_361_272_832),
            ),
            licences=(Licence("all parts", "Apache-2.0", "this package, which contains it"),),
            note="nano is made for trying and testing, on the shipped portrait; on other faces it fails. "
            "Models for real footage: latentsync-ray models",
        ),
        ModelSpec(
            "tiny-random",
            64,
            unet=UNetConfig(
                block_out_channels=(32, 32, 64, 128),
                layers_per_block=1,
                norm_num_groups=8,
                heads=2,
                audio_width=64,
                motion_heads=2,
            ),
            whisper=WhisperSize(width=64, heads=2, layers=2),
            flops=(
                Flops(whole=878_313_472, cached=170_590_208, around=1_411_350_528, encoding=623_640_576),
                Flops(whole=1_717_575_680, cached=330_391_552, around=1_411_350_528, encoding=623_640_576),
            ),
            seed=1247,
            licences=(Licence("all parts", "none needed", "random numbers, to try the pipeline with; mouths become noise"),),
        ),
    )
}
