"""The table of finished clips: Parquet files in ``{output}/metadata``, one row per clip, failed ones included.

``schema`` says what a row is, ``files`` reads the files, ``writer`` writes them, in the folders of ``partition``; ``lookup``
reads single columns, ``held`` and ``finished`` know which clips have a row, and ``ledger`` is the driver's side of it all.
"""

from __future__ import annotations

from latentsync_ray.records.files import commit_pending, read_records
from latentsync_ray.records.ledger import Records
from latentsync_ray.records.lookup import among, in_batches, look_up, rows_where, taken
from latentsync_ray.records.schema import MANIFEST_PREFIX, RECORD_SCHEMA

__all__ = [
    "MANIFEST_PREFIX",
    "RECORD_SCHEMA",
    "Records",
    "among",
    "commit_pending",
    "in_batches",
    "look_up",
    "read_records",
    "rows_where",
    "taken",
]
