"""What a row of the table is, and how rows of earlier versions become such rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray.gate import MEASURES
from latentsync_ray.types import ClipRecord

__all__ = [
    "MANIFEST_PREFIX",
    "RECORD_SCHEMA",
    "carried_name",
    "is_outdated",
    "one_row_a_clip",
    "renamed",
    "to_table",
    "upgraded",
]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

MANIFEST_PREFIX = "manifest_"
"""What a user's column is carried under, followed by its name, when a column of ours has that name."""

_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", "UTC"),
}
_FORMER = {"arithmetic": "precision", "sync_seconds": "generate_seconds"}
"""Columns of ours that had another name."""
_MADE_OF = {"video_version", "audio_version", "video_sha256", "audio_sha256", "settings"}
_MARKED = {"content_sha256", "signed_by", "consent", "attempts"}
_QUALITY = {
    *("seam", "sharpness", "flicker", "identity", "skin_shift", "speech_motion", "silence_motion"),
    *("seam_frame", "sharpness_frame", "flicker_frame", "identity_frame", "skin_shift_frame", "silence_motion_frame"),
    *("frames_no_face", "frames_not_speaker", "frames_too_brief"),
    *("frames_out_of_picture", "frames_turned", "frames_covered"),
}
_SYNC = {"sync_score", "sync_offset_ms"}
_TOGETHER = (_MADE_OF, _MARKED, _QUALITY, _SYNC)
"""Columns that came together: a file that has some of them only was written before, and they are the user's."""
_SINCE_NULLS = {
    *_MADE_OF,
    *_MARKED,
    *_QUALITY,
    *_SYNC,
    *(
        "output_path",
        "language",
        "audio_channel",
        "deinterlaced",
        "content_credentials",
        "cache_interval",
        "micro_batch",
        "card",
    ),
    *("face", "face_choice", "face_tracks", "faces_path", "detector"),
    *("track_seconds", "idle_seconds", "busy_share", "frames_per_second", "tflop"),
}
"""Columns that came when the table began to say "nothing" as null, or later: before, a column of that name was the user's."""


def _arrow_type(hint: Any) -> pa.DataType:
    if type(None) in get_args(hint):  # "X | None"
        hint = get_args(hint)[0]
    if get_origin(hint) is list:
        measures = [(name, pa.float64()) for name in ("guidance_scale", *MEASURES)]
        return pa.list_(pa.struct([("seed", pa.int64()), *measures, ("passed", pa.bool_())]))
    return pa.string() if get_origin(hint) is Literal else _TYPES[hint]


RECORD_SCHEMA: pa.Schema = pa.schema([(name, _arrow_type(hint)) for name, hint in get_type_hints(ClipRecord).items()])
"""Columns of the table; those of the manifest that are carried along come after them."""


def carried_name(name: str) -> str:
    """What a user's column is called in the table."""
    return MANIFEST_PREFIX + name if name in RECORD_SCHEMA.names else name


def to_table(records: Iterable[ClipRecord]) -> pa.Table:
    """One row for each record, in the table's schema."""
    return pa.Table.from_pylist([record.to_row() for record in records], RECORD_SCHEMA)


def one_row_a_clip(table: pa.Table) -> pa.Table:
    """The table without the rows that another of the same clip outweighs: a dubbed one, or else the one finished last.

    Needs the columns ``clip_id``, ``status`` and ``finished_at``. Two runs that worked in one output may leave such rows.
    """
    if _pc.count_distinct(table["clip_id"]).as_py() == len(table):
        return table
    order = pa.table(
        {
            "clip_id": table["clip_id"],
            "ok": _pc.not_equal(table["status"], "failed"),
            "finished_at": _pc.fill_null(table["finished_at"].cast(pa.int64()), 0),
            "row": np.arange(len(table)),
        }
    ).sort_by([("ok", "ascending"), ("finished_at", "ascending"), ("row", "ascending")])
    kept = order.group_by("clip_id", use_threads=False).aggregate([("row", "last")])["row_last"]
    mask = np.zeros(len(table), np.bool_)
    mask[kept.to_numpy()] = True
    return table.filter(pa.array(mask))  # ``take`` cannot give more than 2 GB of text


def is_outdated(schema: pa.Schema) -> bool:
    """Whether rows of this schema come from an earlier version: under other names, or with "nothing" as 0 and empty text."""
    return _former_names(schema) or _knows_no_null(schema) or bool(_of_the_user(schema))


def _former_names(schema: pa.Schema) -> bool:
    return set(_FORMER) <= set(schema.names)  # one alone may be a user's


def _of_the_user(schema: pa.Schema) -> set[str]:
    """Columns whose names became ours after these rows were written."""
    if _knows_no_null(schema):
        return _SINCE_NULLS & set(schema.names)
    names = set(schema.names)
    return set().union(*(group & names for group in _TOGETHER if not group <= names))


def _knows_no_null(schema: pa.Schema) -> bool:
    """So did version 0.1.0, which kept times as text."""
    return "finished_at" in schema.names and pa.types.is_string(schema.field("finished_at").type)


def upgraded(table: pa.Table) -> pa.Table:
    """Rows of an earlier version, with or without all of their columns, in today's schema. Needs the column ``status``."""
    mine = _of_the_user(table.schema)
    table = table.rename_columns([MANIFEST_PREFIX + name if name in mine else name for name in table.column_names])
    table = renamed(table)
    return _with_nulls(table) if _knows_no_null(table.schema) else table


def renamed(table: pa.Table) -> pa.Table:
    """The table with today's names for columns of ours."""
    if not _former_names(table.schema):
        return table
    carried = {new: MANIFEST_PREFIX + new for new in _FORMER.values()}  # a user's own then
    return table.rename_columns([_FORMER.get(name, carried.get(name, name)) for name in table.column_names])


def _with_nulls(table: pa.Table) -> pa.Table:
    """Rows of version 0.1.0."""
    failed = _pc.equal(table["status"], "failed")
    for name in table.column_names:
        if name not in RECORD_SCHEMA.names:
            continue
        kind, column = RECORD_SCHEMA.field(name).type, table[name]
        if pa.types.is_string(column.type):
            column = _pc.if_else(_pc.equal(column, ""), None, column)
        elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
            column = _pc.if_else(_pc.and_(failed, _pc.equal(column, 0)), None, column)
        table = table.set_column(table.column_names.index(name), name, column.cast(kind))
    if "output" in table.column_names:
        path = _pc.struct_field(_pc.extract_regex(table["output"], "(?P<path>clips/[^/]+)$"), "path")
        table = table.append_column("output_path", path)
    return table
