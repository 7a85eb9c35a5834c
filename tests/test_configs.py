"""Every job that ships can be loaded, and the script that runs it ends with the right code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from latentsync_ray import assets
from latentsync_ray.job_file import load_job

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"


def dub(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python jobs/dub.py ...`` from the root of the repository."""
    command = [sys.executable, "jobs/dub.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


JOBS = ("demo", "gcs_h100", "languages", "local")


def test_there_are_four_jobs_and_a_server():
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted((*JOBS, "serve"))


@pytest.mark.parametrize("path", [CONFIGS / f"{name}.yaml" for name in JOBS], ids=JOBS)
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


def test_script_says_how_to_use_it():
    ended = dub()
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: ")


def test_script_refuses_a_wrong_job_in_one_line():
    ended = dub("configs/demo.yaml", "recipe.stepz=1")
    assert ended.returncode == 2
    assert ended.stderr.startswith("ConfigError: overrides: unknown key recipe.stepz")


@pytest.mark.slow
def test_script_runs_the_demo_and_goes_on_where_it_was(tmp_path):
    first = dub("configs/demo.yaml", f"output={tmp_path}", "recipe.steps=1")
    assert first.returncode == 0, first.stderr
    assert "1 of 1 clips done, 0 failed, 154 frames" in first.stdout
    again = dub("configs/demo.yaml", f"output={tmp_path}", "recipe.steps=1")
    assert "1 of 1 clips done, 0 failed, 0 frames" in again.stdout
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 1
