"""Speech features: what every layer of Whisper's encoder makes of a 30 s window.

Knows both layouts in which Whisper's weights are published. Knows nothing about frames (``audio.py``) or spectrograms
(``mel.py``). Runs in float32 always: it is a thousandth of the work, and its features reach every denoising step.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from latentsync_ray.errors import CheckpointMismatch
from latentsync_ray.models.latentsync.checkpoint import fill, read_checkpoint
from latentsync_ray.models.latentsync.options import WhisperSize

__all__ = ["build_encoder", "load_encoder", "speech_features"]

_OPENAI = (
    (r"^layers\.", "blocks."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.self_attn\.q_proj\.", ".attn.query."),
    (r"\.self_attn\.k_proj\.", ".attn.key."),
    (r"\.self_attn\.v_proj\.", ".attn.value."),
    (r"\.self_attn\.out_proj\.", ".attn.out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"^embed_positions\.weight$", "positional_embedding"),
)


def build_encoder(size: WhisperSize) -> WhisperEncoder:
    """The encoder without its last norm: LatentSync was trained on the raw output of every layer, the last one too."""
    encoder = WhisperEncoder(
        WhisperConfig(
            d_model=size.width,
            encoder_layers=size.layers,
            encoder_attention_heads=size.heads,
            encoder_ffn_dim=4 * size.width,
            num_mel_bins=80,
            max_source_positions=1500,
        )
    )
    encoder.layer_norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return encoder


def load_encoder(path: Path, config: Path | None = None, *, device: torch.device) -> WhisperEncoder:
    """The encoder in ``path``: OpenAI's ``.pt``, or transformers' weights with their ``config.json``.

    Raises CheckpointMismatch, naming the keys, unless the file holds exactly an encoder (decoders are passed over).
    """
    content = read_checkpoint(path)
    openai = "model_state_dict" in content
    if openai:
        size = _size(content["dims"], "n_audio_state", "n_audio_head", "n_audio_layer")
        content = content["model_state_dict"]
    elif config is not None:
        size = _size(json.loads(config.read_text(encoding="utf-8")), "d_model", "encoder_attention_heads", "encoder_layers")
    else:
        raise CheckpointMismatch(f"{path} is not in OpenAI's layout, and no config.json in transformers' layout lies beside it")
    encoder_keys = (re.fullmatch(r"(?:model\.)?encoder\.(.+)", name) for name in content)
    weights = {key[1]: content[key[0]] for key in encoder_keys if key}
    for unused in ("ln_post.weight", "ln_post.bias", "layer_norm.weight", "layer_norm.bias"):
        weights.pop(unused, None)
    with torch.device("meta"):
        encoder = build_encoder(size)
    name_in_file = _openai_name if openai else str
    return fill(encoder, weights, path=path, device=device, dtype=torch.float32, name_in_file=name_in_file)


def speech_features(encoder: WhisperEncoder, mel: Tensor) -> Tensor:
    """Features (1500, layers + 1, width) of one window (80, 3000): the embedded input, then each layer's output.

    50 steps per second. One window at a time: one fixed shape, so that a window's features do not depend on its neighbours.
    """
    layers = encoder(mel[None], output_hidden_states=True).hidden_states
    return torch.stack(layers, dim=2)[0]


def _size(numbers: dict[str, int], width: str, heads: str, layers: str) -> WhisperSize:
    return WhisperSize(width=numbers[width], heads=numbers[heads], layers=numbers[layers])


def _openai_name(name: str) -> str:
    for ours, theirs in _OPENAI:
        name = re.sub(ours, theirs, name)
    return name
