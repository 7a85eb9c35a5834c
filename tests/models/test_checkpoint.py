"""Strict loading: whatever is not exactly the model fails, by name."""

from __future__ import annotations

import dataclasses as dc
import functools
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from whole_unet import SMALL, VARIANTS, drawn_unet

from latentsync_ray.errors import CheckpointMismatch, ModelError
from latentsync_ray.models.latentsync.checkpoint import load_unet, official_name, read_checkpoint
from latentsync_ray.models.latentsync.options import UNetConfig
from latentsync_ray.models.latentsync.unet import LatentSyncUNet, sinusoid

CPU = torch.device("cpu")
BIAS = "down_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0.ff_norm.bias"
POSITIONS = "up_blocks.2.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.{}.pos_encoder.pe"


@functools.cache
def drawn_official(options: UNetConfig) -> dict[str, Tensor]:
    weights = {official_name(name): tensor.clone() for name, tensor in drawn_unet(options).state_dict().items()}
    for name in [name for name in weights if name.endswith(".attention_blocks.0.to_q.weight")]:
        table = sinusoid(24, weights[name].shape[1])[None]
        stem = name.removesuffix("0.to_q.weight")
        weights |= {f"{stem}0.pos_encoder.pe": table, f"{stem}1.pos_encoder.pe": table.clone()}
    return weights


def official_weights(options: UNetConfig = SMALL) -> dict[str, Tensor]:
    """A small checkpoint in the official layout, to be changed at will."""
    return dict(drawn_official(options))


def save(weights: Any, folder: Path) -> Path:
    path = folder / "latentsync_unet.pt"
    torch.save({"global_step": 42, "state_dict": weights}, path)
    return path


def load(path: Path, options: UNetConfig = SMALL, dtype: torch.dtype = torch.float32) -> LatentSyncUNet:
    return load_unet(path, options, device=CPU, dtype=dtype)


@torch.inference_mode()
def output(unet: LatentSyncUNet) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sample, speech = torch.randn(1, 13, 2, 8, 8, generator=generator), torch.randn(1, 2, 30, 64, generator=generator)
    return unet(sample.to(unet.dtype), 7, speech.to(unet.dtype)).float()


@pytest.fixture(scope="module")
def expected() -> Tensor:
    return output(drawn_unet(SMALL))


@pytest.mark.parametrize(("stage", "motion"), [("stage2", "all"), ("stage1", "none"), ("stage2_efficient", "decoder")])
def test_full_size_key_table(golden: Path, stage: str, motion: Any) -> None:
    table = json.loads(gzip.decompress((golden / "model/unet_keys.json.gz").read_bytes()))
    shapes = {name: tuple(shape) for name, shape in table["keys"].items() if name not in table["buffers"]}
    if motion != "all":
        shapes = {name: shape for name, shape in shapes.items() if ".motion_modules." not in name or
                  (motion == "decoder" and name.startswith("up_blocks."))}  # fmt: skip
    with torch.device("meta"):
        unet = LatentSyncUNet(dc.replace(UNetConfig.from_official(table["config"]), motion=motion))
    assert {official_name(name): tuple(tensor.shape) for name, tensor in unet.state_dict().items()} == shapes
    totals = {"stage2": table["total_parameters"]} | {
        name.split()[0]: other["total_parameters"] for name, other in table["other_configs"].items()
    }
    assert sum(tensor.numel() for tensor in unet.parameters()) == totals[stage]


def test_official_layout(tmp_path: Path, expected: Tensor) -> None:
    unet = load(save(official_weights(), tmp_path))
    assert torch.equal(output(unet), expected)
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in unet.parameters())


def test_without_wrapper_as_safetensors_and_without_tables(tmp_path: Path, expected: Tensor) -> None:
    bare = {name: tensor for name, tensor in official_weights().items() if not name.endswith(".pe")}
    save_file(bare, tmp_path / "unet.safetensors")
    assert torch.equal(output(load(tmp_path / "unet.safetensors")), expected)
    torch.save(bare, tmp_path / "unet.pt")
    assert torch.equal(output(load(tmp_path / "unet.pt")), expected)
    torch.save(bare, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(output(load(tmp_path / "old.pt")), expected)


def test_names_of_version_1_0(tmp_path: Path, expected: Tensor) -> None:
    renamed = {}
    for name, tensor in official_weights().items():
        if ".attentions." in name:
            name = name.replace(".attn2.", ".audio_cross_attn.attn.").replace(".norm2.", ".audio_cross_attn.norm.")
        renamed[name] = tensor
    assert sum("audio_cross_attn" in name for name in renamed) == 16 * 7
    assert torch.equal(output(load(save(renamed, tmp_path))), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path: Path, expected: Tensor, dtype: torch.dtype) -> None:
    path = save({name: tensor.to(dtype) for name, tensor in official_weights().items()}, tmp_path)
    assert load(path).dtype == torch.float32
    assert (output(load(path)) - expected).abs().max() < (0.01 if dtype == torch.float16 else 0.08)
    half = load(path, dtype=dtype)
    assert {tensor.dtype for tensor in (*half.parameters(), *half.buffers())} == {dtype}
    assert (output(half) - expected).abs().max() < 0.3


@pytest.mark.parametrize("form", ["decoder", "none"])
def test_motion_that_is_off_is_refused(tmp_path: Path, form: str) -> None:
    """A model would do without layers that it was trained with."""
    fitting = official_weights(VARIANTS[form])
    assert torch.equal(output(load(save(fitting, tmp_path), VARIANTS[form])), output(drawn_unet(VARIANTS[form])))
    with pytest.raises(CheckpointMismatch, match=rf"motion_modules.* is not part of .* has motion='all' instead of '{form}'"):
        load(save(official_weights(), tmp_path), VARIANTS[form])


def test_a_weight_under_both_of_its_names_is_refused(tmp_path: Path) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    former = name.replace(".attn2.", ".audio_cross_attn.attn.")
    weights = official_weights()
    with pytest.raises(CheckpointMismatch, match=rf"holds {name} twice: as {name} and as {former}"):
        load(save(weights | {former: weights[name].clone()}, tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "nonsense.pos_encoder.pe",
        POSITIONS.format(7),
        "pos_encoder.pe",
        "conv_in.weight.pos_encoder.pe",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.pos_encoder.pe",
    ],
)
def test_a_position_table_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointMismatch, match=f"{name} is not part of the model"):
        load(save(official_weights() | {name: sinusoid(24, 32)[None]}, tmp_path))


@pytest.mark.parametrize(("weights", "kind"), [(None, "NoneType"), ([1, 2], "list"), (torch.zeros(2), "Tensor")])
def test_a_state_dict_that_is_none_is_refused(tmp_path: Path, weights: Any, kind: str) -> None:
    with pytest.raises(CheckpointMismatch, match=f"its state_dict is a {kind}, expected a dictionary of tensors"):
        load(save(weights, tmp_path))


def test_half_of_the_position_tables_is_refused(tmp_path: Path) -> None:
    weights = official_weights()
    del weights[POSITIONS.format(1)]
    with pytest.raises(CheckpointMismatch, match=f"has some position tables, and not {POSITIONS.format(1)}"):
        load(save(weights, tmp_path))


SPEECH = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize("name", [BIAS, "conv_in.weight", SPEECH, POSITIONS.format(0), "extra"])
@pytest.mark.parametrize(("value", "kind"), [(None, "NoneType"), (3, "int"), ([1.0], "list")])
def test_what_is_no_tensor_is_named(tmp_path: Path, name: str, value: Any, kind: str) -> None:
    with pytest.raises(CheckpointMismatch, match=f"{name} is a {kind}, expected a tensor"):
        load(save(official_weights() | {name: value}, tmp_path))


@pytest.mark.parametrize("name", [BIAS, "conv_in.weight", "conv_out.weight", SPEECH, POSITIONS.format(0)])
def test_a_number_in_place_of_a_tensor_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointMismatch, match=f"{name} .*(has the shape|is not the sinusoid)"):
        load(save(official_weights() | {name: torch.tensor(1.0)}, tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_named(tmp_path: Path, value: float) -> None:
    weights = official_weights()
    weights[BIAS] = weights[BIAS].clone()
    weights[BIAS][3] = value
    with pytest.raises(CheckpointMismatch, match=f"numbers of {BIAS} are NaN or infinite; the file is damaged"):
        load(save(weights, tmp_path))


def test_numbers_that_a_format_cannot_hold_are_named(tmp_path: Path) -> None:
    weights = official_weights()
    weights[BIAS] = weights[BIAS] + 1e6
    load(save(weights, tmp_path))
    with pytest.raises(CheckpointMismatch, match=f"numbers of {BIAS} are too large for torch.float16; .*float32"):
        load(save(weights, tmp_path), dtype=torch.float16)


@pytest.mark.parametrize(("name", "count"), [("heads", 7), ("motion_heads", 5), ("norm_num_groups", 12)])
def test_options_that_do_not_divide_the_channels_are_named(name: str, count: int) -> None:
    for wrong in (count, 0, -2, None, [5]):
        with pytest.raises(ModelError, match=rf"UNet option {name} = .* does not divide block_out_channels"):
            dc.replace(SMALL, **{name: wrong})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", f"{BIAS} is missing"),
        ("renamed", f"{BIAS} is missing; {BIAS}_ is not part of the model"),
        ("reshaped", rf"{BIAS} has the shape \(31,\), expected \(32,\)"),
        ("integer", f"{BIAS} is torch.int8, expected floating-point"),
        ("extra", "surprise is not part of the model"),
    ],
)
def test_one_wrong_key_is_named(tmp_path: Path, damage: str, message: str) -> None:
    weights = official_weights()
    tensor = weights[BIAS]
    if damage == "extra":
        weights["surprise"] = tensor
    else:
        del weights[BIAS]
        others = {"renamed": {f"{BIAS}_": tensor}, "reshaped": {BIAS: tensor[:-1]}, "integer": {BIAS: tensor.to(torch.int8)}}
        weights |= others.get(damage, {})
    with pytest.raises(CheckpointMismatch, match=message):
        load(save(weights, tmp_path))


def test_many_wrong_keys_are_counted(tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in official_weights().items() if not name.startswith("mid_block")}
    missing = sum(name.startswith("mid_block") for name in official_weights())
    with pytest.raises(CheckpointMismatch, match=f"and {missing - 10} more") as caught:
        load(save(weights, tmp_path))
    assert str(caught.value).count("is missing") == 10


@pytest.mark.parametrize(
    "difference",
    [{"in_channels": 8}, {"audio_width": 32}, {"audio": False}, {"motion": "none"}, {"motion": "decoder"},
     {"block_out_channels": (32, 32, 64, 64)}],
)  # fmt: skip
def test_a_file_for_another_config_says_for_which(tmp_path: Path, difference: dict[str, Any]) -> None:
    path = save(official_weights(dc.replace(SMALL, **difference)), tmp_path)
    ((name, value),) = difference.items()
    with pytest.raises(CheckpointMismatch) as caught:
        load(path)
    assert str(caught.value).endswith(f"A UNetConfig for this file has {name}={value!r} instead of {getattr(SMALL, name)!r}")


@pytest.mark.parametrize("table", [sinusoid(32, 32)[None], sinusoid(24, 32)[None].flip(1)])
@pytest.mark.parametrize("which", [0, 1])
def test_another_position_table_is_refused(tmp_path: Path, table: Tensor, which: int) -> None:
    name = POSITIONS.format(which)
    with pytest.raises(CheckpointMismatch, match=name.replace(".", r"\.")):
        load(save(official_weights() | {name: table.clone()}, tmp_path))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"unet{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointMismatch, match=r"unet\.\w+ is no readable checkpoint"):
        read_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "unet.pt")
    with pytest.raises(CheckpointMismatch, match="no readable checkpoint"):
        read_checkpoint(tmp_path / "unet.pt")
