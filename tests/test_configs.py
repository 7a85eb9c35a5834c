"""Every job that ships can be loaded, and says what it needs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentsync_ray import assets
from latentsync_ray.config import load_job

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def test_there_are_three():
    assert sorted(path.name for path in CONFIGS.glob("*.yaml")) == ["demo.yaml", "gcs_h100.yaml", "local.yaml"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_loads(path):
    job = load_job(path, "recipe.steps=11")
    assert job.recipe.steps == 11
    assert job.output


def test_demo_shows_the_shipped_pair():
    job = load_job(CONFIGS / "demo.yaml")
    assert (CONFIGS.parent / job.manifest).samefile(assets.demo_video().parent)
    assert assets.demo_video().with_suffix(".wav") == assets.demo_audio()
    assert assets.demo_video().is_file()
    assert assets.demo_audio().is_file()
    assert sum(path.stat().st_size for path in assets.demo_video().parent.iterdir() if path.is_file()) < 1_000_000
