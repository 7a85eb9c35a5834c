from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentsync_ray.errors import ModelError
from latentsync_ray.models.latentsync.options import UNetConfig


@pytest.fixture
def official(golden: Path) -> dict[str, Any]:
    return json.loads(gzip.decompress((golden / "model/unet_keys.json.gz").read_bytes()))["config"]


def test_the_default_is_the_official_model(official: dict[str, Any]) -> None:
    assert UNetConfig.from_official(official) == UNetConfig()


@pytest.mark.parametrize("motion", ["all", "decoder", "none"])
def test_there_and_back(motion: Any) -> None:
    config = UNetConfig(
        block_out_channels=(32, 32, 64, 64), layers_per_block=1, heads=2, audio_width=48, motion=motion, max_frames=20
    )
    assert UNetConfig.from_official(json.loads(json.dumps(config.to_official()))) == (
        config if motion != "none" else dataclasses.replace(config, max_frames=24)
    )


def test_reads_a_whole_yaml_file_with_1e_5_as_text(official: dict[str, Any]) -> None:
    text = yaml.safe_dump({"data": {"resolution": 512}, "model": official}).replace("1.0e-05", "1e-5")
    tree = yaml.safe_load(text)
    assert tree["model"]["norm_eps"] == "1e-5"
    assert UNetConfig.from_official(tree) == UNetConfig()


def test_motion_off_needs_no_motion_options(official: dict[str, Any]) -> None:
    without = {name: value for name, value in official.items() if "motion" not in name}
    assert UNetConfig.from_official(without).motion == "none"
    assert UNetConfig.from_official(official | {"use_motion_module": False}).motion == "none"
    assert UNetConfig.from_official(official | {"motion_module_decoder_only": True}).motion == "decoder"


@pytest.mark.parametrize(
    ("option", "value"),
    [("motion_module_mid_block", True), ("act_fn", "relu"), ("use_inflated_groupnorm", True), ("spelt_wrong", 1), ("heads", 4)],
)
def test_another_network_is_refused_by_name(official: dict[str, Any], option: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"{option} = {value!r}"):
        UNetConfig.from_official(official | {option: value})


def test_another_motion_module_is_refused_by_name(official: dict[str, Any]) -> None:
    official["motion_module_kwargs"]["temporal_attention_dim_div"] = 2
    with pytest.raises(ModelError, match="temporal_attention_dim_div = 2"):
        UNetConfig.from_official(official)
