"""The tables of what can be exchanged, and the one function that looks into them.

Each entry is ``"module:attribute"`` and is imported on first use, so that a detector's or sink's dependencies cost nothing
until it is chosen. To add one, write its file and add its line here. Versions of a model stand with its family, e.g. in
``latentsync_ray.models.latentsync.specs.MODELS``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from latentsync_ray.errors import ConfigError

__all__ = ["DETECTORS", "FAMILIES", "SINKS", "lookup"]

DETECTORS: dict[str, str] = {
    "mesh": "latentsync_ray.faces.mesh:MeshDetector",
    "mesh-v2": "latentsync_ray.faces.mesh:MeshV2Detector",
    "embedded": "latentsync_ray.faces.embedded:EmbeddedDetector",
    "insightface": "latentsync_ray.faces.insightface:InsightFaceDetector",
}
"""Face detectors by name; see ``latentsync_ray.faces.Detector`` for what one has to do."""

FAMILIES: dict[str, str] = {
    "latentsync": "latentsync_ray.models.latentsync.family:LATENTSYNC",
}
"""Families of models; see ``latentsync_ray.models.Family``."""

SINKS: dict[str, str] = {
    "mp4": "latentsync_ray.sinks.mp4:Mp4Sink",
}
"""Where finished clips go, by name; see ``latentsync_ray.sinks.Sink``."""


def lookup(table: Mapping[str, str], name: str, kind: str) -> Any:
    """The object that ``table`` holds under ``name``, imported now; ``name`` may also be a ``"module:attribute"`` of your own.

    Raises ConfigError, naming the known entries, when there is no such thing.
    """
    module, colon, attribute = table.get(name, name).partition(":")
    if not colon:
        raise ConfigError(f'unknown {kind} {name!r}; known: {", ".join(sorted(table))}, or "module:attribute" of your own')
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{kind} {name!r} cannot be imported: {error}; a module of your own has to be installed, or its folder in "
            "PYTHONPATH, on every machine that works"
        ) from error
