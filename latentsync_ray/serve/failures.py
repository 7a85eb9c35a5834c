"""The record of a request that ended without one: its worker went away for good, or met a bug."""

from __future__ import annotations

from latentsync_ray.errors import ClipError
from latentsync_ray.records import commit_pending
from latentsync_ray.serve.settings import Settings
from latentsync_ray.serve.tables import RequestRow
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.types import Pair

__all__ = ["record_failure"]


def record_failure(row: RequestRow, settings: Settings, error: ClipError) -> None:
    """Leave the record for the table, as a worker would have. Raises StorageUnavailable."""
    asked = {name: row.arguments.get(name) for name in ("guidance_scale", "seed", "loop_mode")}
    pair = Pair(clip_id=row.id, video=row.arguments["video_url"], audio=row.arguments["audio_url"], **asked)
    commit_pending(settings.folder, failed_record(pair, settings.recipe, error))
