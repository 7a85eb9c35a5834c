"""Single columns of the table, for the clips of a manifest: read file by file, and held only where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from latentsync_ray.records.files import metadata_files, read_all
from latentsync_ray.records.schema import RECORD_SCHEMA

__all__ = ["look_up", "rows_where"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


def look_up(output: str, clip_ids: pa.ChunkedArray, columns: Sequence[str]) -> pa.Table:
    """These columns of the record of each of ``clip_ids``, in their order; null where a clip has no row, or a row no column."""
    rows = rows_where(output, "clip_id", clip_ids, columns)
    return rows.take(_pc.index_in(clip_ids, rows["clip_id"])).select(list(columns))


def rows_where(output: str, column: str, values: pa.ChunkedArray, columns: Sequence[str]) -> pa.Table:
    """``clip_id``, ``column`` and ``columns`` of the rows whose ``column`` is one of ``values``."""
    wanted = list(dict.fromkeys(["clip_id", column, *columns]))
    schema = pa.schema([RECORD_SCHEMA.field(name) for name in wanted])

    def matching(_: pa.Schema, table: pa.Table) -> pa.Table:
        if column not in table.column_names:  # of an earlier version
            return schema.empty_table()
        return table.filter(_pc.is_in(table[column].cast(pa.string()), values)).replace_schema_metadata(None)

    found = read_all(metadata_files(output), columns=wanted, each=matching)[0].values()
    return pa.concat_tables([schema.empty_table(), *found], promote_options="permissive").select(wanted)
