"""MP4 files in the job's output folder, named by clip."""

from __future__ import annotations

from pathlib import Path

from latentsync_ray import storage
from latentsync_ray.sinks import Published, publish_file

__all__ = ["Mp4Sink"]


class Mp4Sink:
    """``{output}/clips/{clip_id}.mp4``."""

    content_type = "video/mp4"

    def __init__(self, output: str) -> None:
        self.output = output

    def uri(self, clip_id: str) -> str:
        return storage.join(self.output, "clips", f"{clip_id}.mp4")

    def publish(self, local_mp4: Path, clip_id: str) -> Published:
        drafts = storage.join(self.output, "_work", "drafts")  # nothing half-written under clips/, not even hidden
        return publish_file(local_mp4, self.uri(clip_id), content_type=self.content_type, drafts=drafts)
