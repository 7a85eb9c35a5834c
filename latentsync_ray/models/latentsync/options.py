"""In which options LatentSync's networks differ, and how the official configuration files spell them.

Knows no torch, so that workers without a model can read what a model needs.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, Literal

from latentsync_ray.errors import ModelError

__all__ = ["DOWN_BLOCKS", "UP_BLOCKS", "Motion", "UNetConfig", "WhisperSize"]

Motion = Literal["all", "decoder", "none"]
"""Where the temporal layers are: all blocks but the middle, up blocks only (stage2_efficient), nowhere (1.0, stage1)."""

DOWN_BLOCKS = ("CrossAttnDownBlock", "CrossAttnDownBlock", "CrossAttnDownBlock", "DownBlock")
UP_BLOCKS = ("UpBlock", "CrossAttnUpBlock", "CrossAttnUpBlock", "CrossAttnUpBlock")

_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "down_block_types": [f"{kind}3D" for kind in DOWN_BLOCKS],
    "up_block_types": [f"{kind}3D" for kind in UP_BLOCKS],
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "resnet_time_scale_shift": "default",
    "use_inflated_groupnorm": False,
    "motion_module_resolutions": [1, 2, 4, 8],
    "motion_module_mid_block": False,
    "motion_module_type": "Vanilla",
}
"""Official options that every released model sets alike; another value would be another network."""

_FIXED_MOTION: dict[str, Any] = {
    "num_transformer_block": 1,
    "attention_block_types": ["Temporal_Self", "Temporal_Self"],
    "temporal_position_encoding": True,
    "temporal_attention_dim_div": 1,
}
_NAMES = {"heads": "attention_head_dim", "audio": "add_audio_layer", "audio_width": "cross_attention_dim"}
_MOTION_NAMES = {"motion_heads": "num_attention_heads", "max_frames": "temporal_position_encoding_max_len"}
"""Field -> official option, where they differ."""

_TRAINING_ONLY = {"sample_size", "zero_initialize"}


@dc.dataclass(frozen=True)
class WhisperSize:
    """The sizes of a Whisper encoder. The defaults are those of Whisper tiny."""

    width: int = 384
    heads: int = 6
    layers: int = 4


@dc.dataclass(frozen=True)
class UNetConfig:
    """The options in which LatentSync models differ. The defaults are those of 1.5 and 1.6."""

    in_channels: int = 13
    """Noise 4, mask 1 (1 = keep), masked picture 4, reference picture 4."""
    out_channels: int = 4
    block_out_channels: tuple[int, int, int, int] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    heads: int = 8
    """Attention heads at every level; the official files call this ``attention_head_dim``."""
    audio: bool = True
    audio_width: int = 384
    """Width of the speech features: 384 Whisper tiny, 768 Whisper small."""
    motion: Motion = "all"
    motion_heads: int = 8
    max_frames: int = 24
    """Length of the temporal position table."""

    def __post_init__(self) -> None:
        parts = {"heads": self.heads, "norm_num_groups": self.norm_num_groups}
        parts |= {"motion_heads": self.motion_heads} if self.motion != "none" else {}
        for name, count in parts.items():
            if not (isinstance(count, int) and count > 0) or any(channels % count for channels in self.block_out_channels):
                raise ModelError(f"UNet option {name} = {count!r} does not divide block_out_channels {self.block_out_channels}")

    @classmethod
    def from_official(cls, section: Mapping[str, Any]) -> UNetConfig:
        """Read the official configuration: a whole YAML/JSON file, or its ``model`` section.

        Raises ModelError, naming the option, where it asks for a network that no released model uses.
        """
        options = dict(section.get("model", section))
        temporal = dict(options.pop("motion_module_kwargs", None) or {})
        motion: Motion = "all"
        if options.pop("motion_module_decoder_only", False):
            motion = "decoder"
        if not options.pop("use_motion_module", False):
            motion, temporal = "none", {}
            options = {name: value for name, value in options.items() if not name.startswith("motion_module_")}
        known: dict[str, Any] = {"audio": False, "motion": motion}
        for field, name in _MOTION_NAMES.items():
            if name in temporal:
                known[field] = temporal.pop(name)
        for field in dc.fields(cls):
            name = _NAMES.get(field.name, field.name)
            if name in options:
                known[field.name] = options.pop(name)
        for name, value in (options | temporal).items():
            wanted = (_FIXED | _FIXED_MOTION).get(name, value if name in _TRAINING_ONLY else None)
            if value != wanted:
                raise ModelError(f"UNet option {name} = {value!r} is not supported (LatentSync models use {wanted!r})")
        known["block_out_channels"] = tuple(known.get("block_out_channels", cls.block_out_channels))
        known["norm_eps"] = float(known.get("norm_eps", cls.norm_eps))  # PyYAML reads 1e-5, without a dot, as a string
        return cls(**known)

    def to_official(self) -> dict[str, Any]:
        """The ``model`` section that ``from_official`` reads as this."""
        options = {_NAMES.get(field.name, field.name): getattr(self, field.name) for field in dc.fields(self)}
        options["block_out_channels"] = list(self.block_out_channels)
        temporal = {name: options.pop(field) for field, name in _MOTION_NAMES.items()}
        if options.pop("motion") == "none":
            return options
        decoder_only = self.motion == "decoder"
        return options | {
            "use_motion_module": True,
            "motion_module_decoder_only": decoder_only,
            "motion_module_kwargs": temporal,
        }
