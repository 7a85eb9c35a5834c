from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

from latentsync_ray.errors import CheckpointMismatch
from latentsync_ray.models.latentsync.audio import step_indices
from latentsync_ray.models.latentsync.model import LatentSync
from latentsync_ray.models.latentsync.whisper import load_encoder, speech_features
from latentsync_ray.models.mel import audio_step_count, log_mel_peak, mel_window

CPU = torch.device("cpu")

Speech = Callable[[Path], np.ndarray]


def whisper_positions(width: int) -> Tensor:
    """Whisper's position table: sines, then cosines."""
    rates = torch.exp(-np.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(1500)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@pytest.fixture
def one_layer(golden: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of one official layer in OpenAI's layout, and what it gives."""
    tensors = load_file(golden / "model/speech.safetensors")
    expected = {name: tensors.pop(name) for name in list(tensors) if name.startswith("expected.")}
    return tensors | {"encoder.positional_embedding": whisper_positions(64)}, expected


def save_openai(weights: dict[str, Tensor], path: Path, *, layers: int = 1) -> Path:
    torch.save({"dims": {"n_audio_state": 64, "n_audio_head": 2, "n_audio_layer": layers}, "model_state_dict": weights}, path)
    return path


def windows(samples: np.ndarray) -> Tensor:
    peak = log_mel_peak(samples)
    return torch.from_numpy(mel_window(samples, 0, peak))


@torch.inference_mode()
def test_raw_output_of_every_layer(one_layer: tuple, golden: Path, speech: Speech, tmp_path: Path) -> None:
    weights, expected = one_layer
    decoder = {"decoder.ln.weight": torch.ones(64), "encoder.ln_post.weight": torch.ones(64)}
    encoder = load_encoder(save_openai(weights | decoder, tmp_path / "tiny.pt"), device=CPU)
    features = speech_features(encoder, windows(speech(golden / "model/short.flac")))
    assert features.shape == (1500, 2, 64)
    torch.testing.assert_close(features[:38], expected["expected.features"], atol=5e-5, rtol=0)


def test_both_layouts_give_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=64, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=256, decoder_ffn_dim=256, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    model = WhisperModel(config).eval()
    model.save_pretrained(tmp_path / "transformers")
    renamed = {}
    for name, tensor in model.encoder.state_dict().items():
        for new, old in [
            ("blocks.", "layers."), (".attn_ln.", ".self_attn_layer_norm."), (".mlp_ln.", ".final_layer_norm."),
            (".attn.query.", ".self_attn.q_proj."), (".attn.key.", ".self_attn.k_proj."),
            (".attn.value.", ".self_attn.v_proj."), (".attn.out.", ".self_attn.out_proj."),
            (".mlp.0.", ".fc1."), (".mlp.2.", ".fc2."),
            ("positional_embedding", "embed_positions.weight"), ("ln_post.", "layer_norm."),
        ]:  # fmt: skip
            name = name.replace(old, new)
        renamed[f"encoder.{name}"] = tensor
    folder = tmp_path / "transformers"
    theirs = load_encoder(folder / "model.safetensors", folder / "config.json", device=CPU)
    openai = load_encoder(save_openai(renamed, tmp_path / "tiny.pt", layers=2), device=CPU)
    mel = torch.from_numpy(np.random.RandomState(0).standard_normal((80, 3000)).astype(np.float32))
    with torch.inference_mode():
        got = speech_features(theirs, mel)
        torch.testing.assert_close(got, speech_features(openai, mel), atol=0, rtol=0)
        public = model.encoder(mel[None], output_hidden_states=True)
        torch.testing.assert_close(got[:, 1], public.hidden_states[1][0])
        torch.testing.assert_close(model.encoder.layer_norm(got[:, 2]), public.last_hidden_state[0])


@pytest.mark.parametrize("damage", ["missing", "renamed", "reshaped"])
def test_every_key_counts(one_layer: tuple, tmp_path: Path, damage: str) -> None:
    weights, _ = one_layer
    key = "encoder.blocks.0.mlp.2.bias"
    tensor = weights.pop(key)
    weights |= {"missing": {}, "renamed": {key + "x": tensor}, "reshaped": {key: tensor[:5]}}[damage]
    with pytest.raises(CheckpointMismatch, match=r"blocks\.0\.mlp\.2\.bias"):
        load_encoder(save_openai(weights, tmp_path / "tiny.pt"), device=CPU)


def test_transformers_layout_needs_its_config(tmp_path: Path) -> None:
    save_file({"encoder.conv1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"no config\.json"):
        load_encoder(tmp_path / "model.safetensors", device=CPU)


@pytest.mark.parametrize("clip", ["clip6s", "short", "long"])
def test_official_features(small_model: LatentSync, reference: Path, speech: Speech, clip: str) -> None:
    golden = load_file(reference / "whisper/golden.safetensors")
    samples = speech(reference / f"whisper/{clip}.flac")
    peak, steps = log_mel_peak(samples), audio_step_count(len(samples))
    mel = np.stack([mel_window(samples, window, peak) for window in range(-(-steps // 1500))])
    features = small_model.features(mel)
    assert features.shape == (1500 * len(mel), 3, 64)
    rows = golden.get(f"{clip}.feature_index", torch.arange(steps)).long()
    torch.testing.assert_close(features[rows], golden[f"{clip}.features"], atol=5e-5, rtol=0)
    if f"{clip}.feature_channel_mean" in golden:
        torch.testing.assert_close(features[:steps].mean(-1), golden[f"{clip}.feature_channel_mean"], atol=5e-5, rtol=0)
    for fps in (25, 30):
        indices = step_indices(0, len(golden[f"{clip}.fps{fps}.chunk_index"]), Fraction(fps), steps)
        kept = golden[f"{clip}.fps{fps}.chunks_kept"].numpy()
        tokens = small_model.audio_tokens(features, 0, indices[kept])
        torch.testing.assert_close(tokens, golden[f"{clip}.fps{fps}.chunks"], atol=5e-5, rtol=0)


def test_tokens_of_a_later_window(small_model: LatentSync) -> None:
    features = torch.arange(3000.0).reshape(1500, 2, 1)
    tokens = small_model.audio_tokens(features, 1, np.array([[1500, 1501]], np.int32))
    assert tokens.flatten().tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="steps 1499 to 1500"):
        small_model.audio_tokens(features, 1, np.array([[1499, 1500]], np.int32))


def test_reference_meta_is_what_we_count(reference: Path) -> None:
    for clip in json.loads((reference / "whisper/meta.json").read_text())["clips"].values():
        assert audio_step_count(clip["samples"]) == clip["feature_shape"][0]
