"""The record of a request that ended without one: its worker went away for good, or met a bug."""

from __future__ import annotations

import logging

from latentsync_ray.errors import ClipError, LatentSyncError, WorkerDied
from latentsync_ray.recipe import ROW_SETTINGS
from latentsync_ray.records import commit_pending
from latentsync_ray.serve.queue import Queue
from latentsync_ray.serve.settings import Settings
from latentsync_ray.serve.tables import RequestRow
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.types import Pair

__all__ = ["put_back", "reclaim", "record_failure"]

_LOG = logging.getLogger(__name__)


def record_failure(row: RequestRow, settings: Settings, error: ClipError) -> None:
    """Leave the record for the table, as a worker would have. A request must end all the same when storage does not take it."""
    asked = {name: row.arguments.get(name) for name in ROW_SETTINGS}
    pair = Pair(clip_id=row.id, video=row.arguments["video_url"], audio=row.arguments["audio_url"], **asked)
    try:
        commit_pending(settings.folder, failed_record(pair, settings.recipe, error))
    except LatentSyncError as failure:
        _LOG.error("request %s: its record could not be written: %s", row.id, failure)


def put_back(row: RequestRow, queue: Queue, settings: Settings, *, reason: str) -> None:
    """Queue a running request again whose worker went away, or end it, with a record, when that happened too often."""
    if row.attempts >= settings.attempts and not row.cancelled:
        died = f"its worker went away {row.attempts} times ({reason}); the input may need more memory than there is"
        record_failure(row, settings, WorkerDied(died))
    queue.release(row.id, row.attempts, attempts=settings.attempts, reason=reason)


def reclaim(queue: Queue, settings: Settings) -> None:
    """Put back everything that is being worked on: for a server that starts and is alone with its database."""
    for row in queue.running():
        put_back(row, queue, settings, reason="the server was stopped")
