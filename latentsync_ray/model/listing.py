"""What ``latentsync-ray models`` tells: models and detectors, whether they are here, and on which terms they are published."""

from __future__ import annotations

import dataclasses as dc
from importlib.util import find_spec as find_module
from pathlib import Path

from latentsync_ray.model.hub import HUB
from latentsync_ray.model.remedies import by_hand, download_command, incomplete_folder, published_bytes
from latentsync_ray.model.source import models_folder, survey
from latentsync_ray.model.specs import MODELS, Licence
from latentsync_ray.registry import DETECTORS

__all__ = ["DetectorRow", "ModelRow", "describe_detectors", "describe_models"]

_DETECTOR_LICENCES = {
    "embedded": Licence("cascade", "BSD-3-Clause", "scikit-image's LICENSE.txt; from OpenCV"),
    "insightface": Licence("buffalo_l models", "non-commercial research only", "github.com/deepinsight/insightface"),
}
_DETECTOR_MODULES = {"embedded": "skimage", "insightface": "insightface"}


@dc.dataclass(frozen=True)
class ModelRow:
    """A named model."""

    name: str
    resolution: int
    found: str
    """Where it is on this machine; empty: it has to be fetched, or is incomplete."""
    incomplete: str
    """What is wrong with a folder that holds only some of its files; else empty."""
    download_bytes: int
    """What is left to fetch."""
    command: str
    """Fetches it; empty when there is nothing to fetch."""
    by_hand: list[str]
    licences: tuple[Licence, ...]


@dc.dataclass(frozen=True)
class DetectorRow:
    """A detector of faces."""

    name: str
    installed: bool
    licences: tuple[Licence, ...]


def describe_models() -> list[ModelRow]:
    """The named models, and which of them are on this machine. Asks no network."""
    rows = []
    for spec in MODELS.values():
        if not spec.source:
            rows.append(ModelRow(spec.name, spec.resolution, "needs no files", "", 0, "", [], spec.licences))
            continue
        found, folder = survey(spec), str(models_folder() / spec.name)
        incomplete = incomplete_folder(spec, found.place, present=found.present, missing=found.missing) if found.missing else ""
        left = 0 if found.model else published_bytes(spec.source, found.missing or None)
        left += 0 if found.vae else published_bytes(spec.vae)
        ways = [] if found.complete or incomplete else by_hand(spec, folder, model=not found.model, vae=not found.vae)
        command = "" if found.complete or not spec.source.startswith(HUB) else download_command(spec)
        where = str(Path(found.model["unet"]).parent) if found.complete else ""
        rows.append(ModelRow(spec.name, spec.resolution, where, incomplete, left, command, ways, spec.licences))
    return rows


def describe_detectors() -> list[DetectorRow]:
    """The named detectors, and whether what they need can be imported."""
    return [
        DetectorRow(name, find_module(_DETECTOR_MODULES[name]) is not None, (_DETECTOR_LICENCES[name],)) for name in DETECTORS
    ]
