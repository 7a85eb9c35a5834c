"""The named detectors, whether they are here, and on which terms they are published, for whoever lists them."""

from __future__ import annotations

import dataclasses as dc
from importlib.util import find_spec

from latentsync_ray import redact
from latentsync_ray.errors import LatentSyncError
from latentsync_ray.faces import insightface
from latentsync_ray.faces.mesh_files import BUNDLE, INSTALL, find_mesh_files, mesh_folder
from latentsync_ray.licence import Licence

__all__ = ["DetectorRow", "describe_detectors"]

_MESH_LICENCE = Licence("BlazeFace and face mesh", "Apache-2.0", "MediaPipe's model cards")
_DETECTORS = {
    "mesh": (_MESH_LICENCE, INSTALL),
    "mesh-v2": (_MESH_LICENCE, ""),
    "embedded": (Licence("cascade", "BSD-3-Clause", "scikit-image's LICENSE.txt; from OpenCV"), ""),
    "insightface": (
        Licence("buffalo_l models", "non-commercial research only", "github.com/deepinsight/insightface"),
        insightface.INSTALL,
    ),
}
"""Detector -> its licence, and what brings it."""
_MODULES = {"embedded": "skimage", "insightface": "insightface"}
_INSTALLED = {"insightface": "installed; its models are downloaded on first use"}


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
    rows = [DetectorRow(name, _place_of(name), command, (licence,)) for name, (licence, command) in _DETECTORS.items()]
    return [dc.replace(row, command=_by_hand()) if row.name == "mesh-v2" else row for row in rows]


def _by_hand() -> str:
    return f"put MediaPipe's {BUNDLE} into {redact.shown(mesh_folder())}"


def _place_of(detector: str) -> str:
    if detector in ("mesh", "mesh-v2"):
        try:
            files = find_mesh_files(bundled=detector == "mesh-v2")
        except LatentSyncError as error:
            return f"unusable: {error}"
        return files.place if files else ""
    return _INSTALLED.get(detector, "installed") if find_spec(_MODULES[detector]) is not None else ""
