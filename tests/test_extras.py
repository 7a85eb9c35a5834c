"""The words that tell how to install an extra, and what the extras hold."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from latentsync_ray import extras, filesystems

ROOT = Path(__file__).resolve().parent.parent


def test_a_checkout_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert extras.install_command("gcs") == f"pip install --editable '{ROOT}[gcs]'"
    monkeypatch.setattr(extras, "_HOME", ROOT / "tests" / "..")
    assert extras.install_command("serve", "postgres").endswith("[serve,postgres]'")


def test_an_installed_package_is_named_without_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "_HOME", tmp_path)
    assert extras.install_command("gcs") == "pip install 'latentsync-ray[gcs]'"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "somebody-elses"\n')
    assert extras.install_command("gcs") == "pip install 'latentsync-ray[gcs]'"


def test_no_extra_brings_a_second_opencv() -> None:
    """Both install cv2, each over the other. InsightFace declares the other one, so that no extra may name it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    names = {each.split(">")[0].split("[")[0].split("=")[0].strip() for each in needed}
    assert "opencv-python-headless" in names
    assert not names & {"opencv-python", "opencv-contrib-python", "insightface"}


def test_every_hint_names_an_extra_that_there_is() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = "".join(path.read_text() for path in (ROOT / "latentsync_ray").rglob("*.py"))
    named = set(re.findall(r"install_command\(['\"](\w+)", sources))
    assert {"insightface", "postgres", "serve"} <= named
    assert named | set(filesystems._EXTRAS.values()) <= set(known)
    assert "pip install '.[" not in sources, "that needs the right folder"
