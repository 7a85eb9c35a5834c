"""What ``latentsync-ray models`` tells: models and detectors, whether they are here, and on which terms they are published."""

from __future__ import annotations

import dataclasses as dc
from importlib.util import find_spec as find_module

from latentsync_ray.models import Licence, ModelRow
from latentsync_ray.models.find import find_model, model_names
from latentsync_ray.registry import DETECTORS

__all__ = ["DetectorRow", "describe_detectors", "describe_models"]

_DETECTOR_LICENCES = {
    "embedded": Licence("cascade", "BSD-3-Clause", "scikit-image's LICENSE.txt; from OpenCV"),
    "insightface": Licence("buffalo_l models", "non-commercial research only", "github.com/deepinsight/insightface"),
}
_DETECTOR_MODULES = {"embedded": "skimage", "insightface": "insightface"}


@dc.dataclass(frozen=True)
class DetectorRow:
    """A detector of faces."""

    name: str
    installed: bool
    licences: tuple[Licence, ...]


def describe_models() -> list[ModelRow]:
    """The named models, and which of them are on this machine. Asks no network."""
    return [find_model(name).describe() for name in model_names()]


def describe_detectors() -> list[DetectorRow]:
    """The named detectors, and whether what they need can be imported."""
    return [
        DetectorRow(name, find_module(_DETECTOR_MODULES[name]) is not None, (_DETECTOR_LICENCES[name],)) for name in DETECTORS
    ]
