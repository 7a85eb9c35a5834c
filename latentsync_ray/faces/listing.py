"""The named detectors, whether they are here, and on which terms they are published, for whoever lists them."""

from __future__ import annotations

import dataclasses as dc
from importlib.util import find_spec

from latentsync_ray.faces import insightface
from latentsync_ray.faces.mesh_files import INSTALL, find_mesh_files
from latentsync_ray.licence import Licence

__all__ = ["DetectorRow", "describe_detectors"]

_DETECTORS = {
    "mesh": (Licence("BlazeFace and face mesh", "Apache-2.0", "MediaPipe's model cards"), INSTALL),
    "embedded": (Licence("cascade", "BSD-3-Clause", "scikit-image's LICENSE.txt; from OpenCV"), ""),
    "insightface": (
        Licence("buffalo_l models", "non-commercial research only", "github.com/deepinsight/insightface"),
        insightface.INSTALL,
    ),
}
"""Detector -> its licence, and what brings it."""
_MODULES = {"embedded": "skimage", "insightface": "insightface"}


@dc.dataclass(frozen=True)
class DetectorRow:
    """A detector of faces."""

    name: str
    found: str
    """Where it is on this machine; empty: it has to be installed."""
    command: str
    """Installs it; empty when it is always there."""
    licences: tuple[Licence, ...]


def describe_detectors() -> list[DetectorRow]:
    """The named detectors, and whether what they need is here."""
    return [DetectorRow(name, _place_of(name), command, (licence,)) for name, (licence, command) in _DETECTORS.items()]


def _place_of(detector: str) -> str:
    if detector == "mesh":
        files = find_mesh_files()
        return files.place if files else ""
    return "installed" if find_spec(_MODULES[detector]) is not None else ""
