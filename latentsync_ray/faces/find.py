"""From ``recipe.detector`` to the detector: a name, "module:Class" of one's own, or the place of a face mesh's files."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

from latentsync_ray.faces import Detector
from latentsync_ray.faces.mesh import MeshDetector
from latentsync_ray.faces.mesh_files import mesh_files
from latentsync_ray.registry import DETECTORS, lookup

__all__ = ["check_detector", "detector_version", "make_detector"]


def make_detector(name: str) -> Detector:
    """The detector, ready to look. Raises ConfigError or ModelError when it cannot be had."""
    return MeshDetector(name) if _is_place(name) else lookup(DETECTORS, name, "detector")()


def check_detector(name: str) -> None:
    """Raise ConfigError or ModelError when this machine lacks what the detector needs, as far as that is cheap to find out."""
    if _is_place(name):
        mesh_files(name)
    elif check := getattr(lookup(DETECTORS, name, "detector"), "check", None):
        check()


def detector_version(name: str) -> str:
    """What tells two detectors of one name apart: what was found with the one is not taken for the other's.

    A detector may tell it by a static method ``version()``; of your own ones, it is the file that holds the class otherwise.
    """
    if _is_place(name):
        return mesh_files(name).digest
    detector = lookup(DETECTORS, name, "detector")
    if version := getattr(detector, "version", None):
        return str(version())
    return "" if name in DETECTORS else _source_of(detector)


def _is_place(name: str) -> bool:
    return name not in DETECTORS and ("://" in name or Path(name).exists())


def _source_of(detector: Any) -> str:
    try:
        file = inspect.getsourcefile(detector)
    except TypeError:  # a function made elsewhere, or something built in
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file and Path(file).is_file() else ""
