"""Downloads with the real client, from a hub on this machine. A process of its own each: the client reads its settings once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import serve_hub

from latentsync_ray.models import hub
from latentsync_ray.models.latentsync.specs import MODELS

UNET, TINY = bytes(3_000_000), b"whisper"
VAE = {"diffusion_pytorch_model.safetensors": b"vae", "config.json": b"{}"}
REPOSITORIES = {
    "ByteDance/LatentSync-1.6": {"latentsync_unet.pt": UNET, "whisper/tiny.pt": TINY, "stable_syncnet.pt": bytes(1000)},
    "stabilityai/sd-vae-ft-mse": VAE,
}


def client(code: str, address: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code that sees this hub, an empty cache, and small files as the published ones."""
    setting_up = f"""
import hashlib
from latentsync_ray.models import hub
from latentsync_ray.models.latentsync import source, specs
hub._EVERY = 0.0
files = {{"latentsync_unet.pt": bytes({len(UNET)}), "whisper/tiny.pt": {TINY!r}}}
known = {{name: specs.Published(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}}
specs.PUBLISHED.update({{specs.MODELS["latentsync-1.6"].source: known, specs.MODELS["latentsync-1.6"].vae: {{}}}})
"""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "hf"),
        "LATENTSYNC_RAY_MODELS": str(tmp_path / "models"),
        "COLUMNS": "200",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", setting_up + code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


COMMAND = "from latentsync_ray.cli import main\nmain({arguments!r})"


def test_models_download_fetches_verifies_and_says_how_it_goes(tmp_path: Path) -> None:
    with serve_hub(REPOSITORIES) as (address, asked):
        ended = client(COMMAND.format(arguments=["models", "download", "latentsync-1.6"]), address, tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    assert lines[0] == "latentsync-1.6: downloading 3.0 MB from huggingface.co/ByteDance/LatentSync-1.6"
    assert any("ByteDance/LatentSync-1.6: 3.0 MB of 3.0 MB, " in line for line in lines), "plain lines where no terminal is"
    assert "\r" not in ended.stderr
    assert "latentsync-1.6  " in ended.stdout
    assert "as published: unet, whisper" in ended.stdout
    assert not any("syncnet" in path for path in asked), "only what is needed"
    revision = hub.split_place(MODELS["latentsync-1.6"].source)[1]
    assert any(f"/revision/{revision}" in path for path in asked), "the pinned one"


def test_what_was_fetched_is_not_asked_for_again(tmp_path: Path) -> None:
    code = "files = source.locate(source.find_spec('latentsync-1.6'), say=print)\nprint(files.unet)"
    with serve_hub(REPOSITORIES) as (address, asked):
        first = client(code, address, tmp_path)
        assert first.returncode == 0, first.stderr
        asked.clear()
        again = client(code, address, tmp_path)
    assert again.stdout.splitlines() == first.stdout.splitlines()[-1:]
    assert asked == []


def test_another_file_under_the_published_name_is_refused(tmp_path: Path) -> None:
    other = bytes(len(UNET) - 1) + b"!"
    tampered = {**REPOSITORIES, "ByteDance/LatentSync-1.6": {"latentsync_unet.pt": other, "whisper/tiny.pt": TINY}}
    with serve_hub(tampered) as (address, _):
        ended = client(COMMAND.format(arguments=["models", "download", "latentsync-1.6"]), address, tmp_path)
    assert ended.returncode == 2
    assert f"its SHA-256 is {hashlib.sha256(other).hexdigest()}" in ended.stderr


def test_a_folder_is_completed_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "models/latentsync-1.6"
    folder.mkdir(parents=True)
    (folder / "latentsync_unet.pt").write_bytes(UNET)
    with serve_hub(REPOSITORIES) as (address, asked):
        ended = client(COMMAND.format(arguments=["models", "download", "latentsync-1.6"]), address, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "whisper/tiny.pt").read_bytes() == TINY
    assert not any("unet" in path for path in asked)


def test_a_hub_without_the_repository_is_told_in_a_moment(tmp_path: Path) -> None:
    with serve_hub({}) as (address, _):
        ended = client(COMMAND.format(arguments=["models", "download", "latentsync-1.6"]), address, tmp_path)
    assert ended.returncode == 2
    assert "no weights of latentsync-1.6 on this machine" in ended.stderr
    assert "404" in ended.stderr or "not found" in ended.stderr.lower()
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("place", "parts"), [("hf://a/b", ("a/b", None)), ("hf://a/b@v2", ("a/b", "v2"))])
def test_places(place: str, parts: tuple[str, str | None]) -> None:
    assert hub.split_place(place) == parts
    assert hub.page(place) == "huggingface.co/a/b"
