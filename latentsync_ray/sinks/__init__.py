"""Where finished clips go, by the names in ``registry.SINKS``. A sink knows names and places, not what is in the files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from latentsync_ray import storage

__all__ = ["Published", "Sink", "publish_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was delivered, for the clip's record."""

    uri: str
    sha256: str
    """Of the local file, taken before it left."""
    bytes: int
    content_type: str


class Sink(Protocol):
    """Takes finished MP4s. Has to be cheap to pickle: it travels to the workers."""

    content_type: str

    def uri(self, clip_name: str) -> str:
        """Where the clip will be, the same every time."""
        ...

    def publish(self, local_mp4: Path, clip_name: str) -> Published:
        """Deliver the file whole or not at all, over an earlier one. Raises StorageUnavailable or ConfigError.

        ``clip_name`` is the clip's id, or a path such as ``talk/de`` where the job or row says so.
        """
        ...


def publish_file(local: Path, uri: str, *, content_type: str, drafts: str | None = None) -> Published:
    """Publish a local file at ``uri``, by way of the folder ``drafts``, and say what was published."""
    with local.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = local.stat().st_size
    storage.publish(local, uri, drafts=drafts)
    return Published(uri=uri, sha256=sha256, bytes=size, content_type=content_type)
