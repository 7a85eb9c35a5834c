"""The inputs of a clip on this machine, and whether they are still those that were planned.

A clip's stages run at different times and on different nodes, and each opens the inputs anew: one that was replaced meanwhile
must not end up in a clip that began as another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from latentsync_ray import redact, storage
from latentsync_ray.config import Recipe
from latentsync_ray.errors import InputChanged
from latentsync_ray.media.source import VideoIndex, probe_video
from latentsync_ray.types import Clip

__all__ = ["Input", "fetch_input", "open_video", "planned_input", "probe"]


@dataclass(frozen=True, slots=True)
class Input:
    """A video or audio as a local file."""

    path: Path
    version: str
    """Changes when the file does, and perhaps without; see ``storage.version``."""
    digest: str
    """SHA-256 of the content, hex."""


def fetch_input(uri: str) -> Input:
    """An input as it is now. Raises InputNotFound or StorageUnavailable."""
    path, version = storage.fetch_version(uri)
    return Input(path, version, _digest(path, version))


def planned_input(clip: Clip, name: Literal["video", "audio"]) -> Input:
    """The input that the clip was planned with. Storage is not asked for what was downloaded before.

    Raises InputChanged when there is another one now, and as ``fetch_input``.
    """
    uri, version, digest = (getattr(clip, column) for column in (name, f"{name}_version", f"{name}_sha256"))
    if storage.is_remote(uri) and (path := storage.fetched(uri, version)):
        return Input(path, version, digest)
    path, now = storage.fetch_version(uri)
    if now != version and _digest(path, now) != digest:  # copies on other nodes, and other servers of one site, say another
        raise InputChanged(f"the {name} {redact.shown(uri)} was replaced while the clip was in work; run the job again")
    return Input(path, now, digest)


def open_video(clip: Clip, recipe: Recipe) -> tuple[Path, VideoIndex]:
    """The clip's video as it was planned, and its packet table. Raises as ``planned_input`` and ``probe``."""
    video = planned_input(clip, "video")
    return video.path, probe(video, recipe)


def probe(video: Input, recipe: Recipe) -> VideoIndex:
    """The packet table of a video. Raises UnreadableVideo or TooLarge."""
    return _probed(video.path, video.digest, recipe.max_pixels, recipe.max_seconds)


@lru_cache(maxsize=8)
def _probed(path: Path, digest: str, max_pixels: int, max_seconds: float) -> VideoIndex:
    # Probing reads every packet's header: seconds for hours of video, and there are many segments in an hour.
    return probe_video(path, max_pixels=max_pixels, max_seconds=max_seconds)


@lru_cache(maxsize=64)
def _digest(path: Path, version: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
