"""Makes the files of this folder: excerpts of the official golden data, and outputs of this package once it matched them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from whole_unet import VARIANTS, run_variant  # noqa: E402

REFERENCE = HERE.parents[3] / "shared" / "reference"
CASE = "b2_f5_8x8_tvec"
LAYERS = (
    "conv_in",
    "time_embedding",
    "down_blocks.0.resnets.0",
    "down_blocks.0.attentions.0",
    "down_blocks.0.motion_modules.0",
)
FRAMES = [0, 4]


def main() -> None:
    table = json.loads((REFERENCE / "unet_full_keys.json").read_text())
    kept = {name: table[name] for name in ("config", "keys", "buffers", "total_parameters", "other_configs")}
    (HERE / "unet_keys.json.gz").write_bytes(gzip.compress(json.dumps(kept).encode(), mtime=0))

    weights = torch.load(REFERENCE / "unet_small/unet_small.pt", weights_only=True)["state_dict"]
    layers = {name: tensor for name, tensor in weights.items() if name.startswith(tuple(f"{layer}." for layer in LAYERS))}
    inputs = load_file(REFERENCE / "unet_small/cases.safetensors")
    inside = load_file(REFERENCE / f"unet_small/intermediates_{CASE}.safetensors")
    expected = {f"expected.{name}": inside[name] for name in ("time_proj", *LAYERS)}
    for name, tensor in expected.items():
        expected[name] = tensor[:, :, FRAMES].contiguous() if tensor.ndim == 5 else tensor
    names = ("sample", "timestep", "encoder_hidden_states")
    save_file(layers | expected | {name: inputs[f"{CASE}.{name}"] for name in names}, HERE / "first_layers.safetensors")
    (HERE / "first_layers.json").write_bytes((REFERENCE / "unet_small/config.json").read_bytes())

    speech = torch.load(REFERENCE / "whisper/whisper_small.pt", weights_only=True)["model_state_dict"]
    unused = ("encoder.positional_embedding", "encoder.ln_post", "encoder.blocks.1.", "decoder.")
    encoder = {name: tensor.contiguous() for name, tensor in speech.items() if not name.startswith(unused)}
    heard = load_file(REFERENCE / "whisper/golden.safetensors")
    encoder |= {"expected.mel": heard["short.mel"], "expected.features": heard["short.features"][:, :2].contiguous()}
    save_file(encoder, HERE / "speech.safetensors")
    (HERE / "short.flac").write_bytes((REFERENCE / "whisper/short.flac").read_bytes())

    whole = load_file(REFERENCE / "pipeline_small/golden.safetensors")
    steps = {"noise": whole["noise"]}
    for step in range(4):
        at = f"g1.5.chunk0.step{step}"
        steps[f"{step}.unet"] = whole[f"{at}.unet_out_uncond_cond"][:, :, 1:2].contiguous()
        steps[f"{step}.predicted"] = whole[f"{at}.eps"][:, :, 1:2].contiguous()
        steps[f"{step}.latents"] = whole[f"{at}.latents"][:, :, 5:6].contiguous()
    save_file(steps, HERE / "denoise.safetensors")

    save_file({name: run_variant(name) for name in VARIANTS}, HERE / "whole_unet.safetensors")


if __name__ == "__main__":
    main()
