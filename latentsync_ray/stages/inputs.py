"""The inputs of a clip on this machine. Three stages open the same video, one of them once per segment."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from latentsync_ray import storage
from latentsync_ray.config import Recipe
from latentsync_ray.media.source import VideoIndex, probe_video

__all__ = ["open_video"]


def open_video(uri: str, recipe: Recipe) -> tuple[Path, VideoIndex]:
    """The video as a local file, and its packet table.

    Raises InputNotFound, StorageUnavailable, UnreadableVideo or TooLarge.
    """
    path = storage.fetch(uri)
    facts = path.stat()
    return path, _probed(path, facts.st_size, facts.st_mtime_ns, recipe.max_pixels, recipe.max_seconds)


@lru_cache(maxsize=8)
def _probed(path: Path, size: int, modified: int, max_pixels: int, max_seconds: float) -> VideoIndex:
    # Probing reads every packet's header: seconds for hours of video, and there are many segments in an hour.
    return probe_video(path, max_pixels=max_pixels, max_seconds=max_seconds)
