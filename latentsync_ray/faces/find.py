"""From ``recipe.detector`` to the detector: a name, "module:Class" of one's own, or the place of a face mesh's files."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentsync_ray.errors import ConfigError
from latentsync_ray.faces import Detector
from latentsync_ray.faces.mesh import MeshDetector
from latentsync_ray.faces.mesh_files import find_mesh_files, is_mesh_place, mesh_files_at
from latentsync_ray.registry import DETECTORS, lookup

__all__ = ["check_detector", "detector_version", "make_detector", "mesh_place", "resolved_detector"]


def resolved_detector(name: str) -> str:
    """What ``auto`` is on this machine, and ``mesh`` where only its later networks are."""
    if name not in ("auto", "mesh"):
        return name
    if find_mesh_files(bundled=False) is not None:
        return "mesh"
    if find_mesh_files(bundled=True) is not None:
        return "mesh-v2"
    return "embedded" if name == "auto" else name


def make_detector(name: str) -> Detector:
    """The detector, ready to look. Raises ConfigError or ModelError when it cannot be had."""
    place = mesh_place(name)
    return MeshDetector(mesh_files_at(place)) if place else _class_of(name)()


def check_detector(name: str) -> None:
    """Raise ConfigError or ModelError when this machine lacks what the detector needs, as far as that is cheap to find out."""
    if not mesh_place(name) and (check := getattr(_class_of(name), "check", None)):
        _called(check, f"{name}.check()")
    detector_version(name)


def detector_version(name: str) -> str:
    """What tells two detectors of one name apart: what was found with the one is not taken for the other's.

    A detector may tell it by ``version``, a text or a static method; of your own ones, it is the file that holds the class
    otherwise. Raises ConfigError or ModelError.
    """
    if place := mesh_place(name):
        return mesh_files_at(place).digest
    if name == "auto":  # a stage by itself, without a driver that resolves it
        return ""
    detector = _class_of(name)
    version = getattr(detector, "version", None)
    if version is not None:
        return version if isinstance(version, str) else str(_called(version, f"{name}.version()"))
    return "" if name in DETECTORS else _source_of(detector)


def mesh_place(name: str) -> str:
    """The place of a face mesh's files, when the name is one; else empty."""
    return name if name not in DETECTORS and is_mesh_place(name) else ""


def _class_of(name: str) -> Any:
    """The named class, or whatever makes a detector when it is called."""
    if ":" not in name and name not in DETECTORS:
        known = ", ".join(sorted(DETECTORS))
        raise ConfigError(
            f'unknown detector {name!r}; known: auto, {known}, "module:Class" of your own, or the place of a face mesh\'s '
            "files (a folder that is there, a URI, a .task file)"
        )
    made = lookup(DETECTORS, name, "detector")
    try:
        inspect.signature(made).bind()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"detector {name!r} cannot be made by calling it without arguments ({error}): it has to be a class as "
            "latentsync_ray.faces.Detector describes it"
        ) from error
    interval = getattr(made, "interval", 1)
    if isinstance(made, type) and not (isinstance(interval, int) and interval >= 1 and hasattr(made, "interval")):
        raise ConfigError(f"detector {name!r} has no attribute interval of 1 or more; see latentsync_ray.faces.Detector")
    return made


def _called(function: Callable[[], Any], what: str) -> Any:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{what} cannot be called on the class ({error}): make it a static method without arguments"
        ) from error
    return function()


def _source_of(detector: Any) -> str:
    try:
        file = inspect.getsourcefile(detector)
    except TypeError:  # a function made elsewhere, or something built in
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file and Path(file).is_file() else ""
