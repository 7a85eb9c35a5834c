"""One MP4 at exactly the place that was asked for."""

from __future__ import annotations

from pathlib import Path

from latentsync_ray.sinks import Published, publish_file

__all__ = ["FileSink"]


class FileSink:
    """``target`` itself (a path or URI), whatever the clip is called: for a single clip."""

    content_type = "video/mp4"

    def __init__(self, target: str) -> None:
        self.target = target

    def uri(self, clip_name: str) -> str:
        return self.target

    def publish(self, local_mp4: Path, clip_name: str) -> Published:
        return publish_file(local_mp4, self.uri(clip_name), content_type=self.content_type)
