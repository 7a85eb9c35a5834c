"""MP4 files in the job's output folder, named by clip."""

from __future__ import annotations

from pathlib import Path

from latentsync_ray.layout import clip_uri, drafts_folder
from latentsync_ray.sinks import Published, publish_file

__all__ = ["Mp4Sink"]


class Mp4Sink:
    """Each clip under its name, among the clips of the output."""

    content_type = "video/mp4"

    def __init__(self, output: str) -> None:
        self.output = output

    def uri(self, clip_name: str) -> str:
        return clip_uri(self.output, clip_name)

    def publish(self, local_mp4: Path, clip_name: str) -> Published:
        drafts = drafts_folder(self.output)
        return publish_file(local_mp4, self.uri(clip_name), content_type=self.content_type, drafts=drafts)
