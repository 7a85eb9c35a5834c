"""Single columns of the table, for the clips of a manifest: read file by file, and held only where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from latentsync_ray.records.files import metadata_files, read_all
from latentsync_ray.records.schema import RECORD_SCHEMA

__all__ = ["in_batches", "look_up", "rows_where"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_FILES, _ROWS = 2, 1_000_000
"""Files read together, and rows of a batch at least."""


def look_up(output: str, clip_ids: pa.ChunkedArray, columns: Sequence[str]) -> pa.Table:
    """These columns of the record of each of ``clip_ids``, in their order; null where a clip has no row, or a row no column."""
    rows = rows_where(output, "clip_id", clip_ids, columns)
    return rows.take(_pc.index_in(clip_ids, rows["clip_id"])).select(list(columns))


def in_batches(output: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """These columns of all rows, about a million at a time; null where a row has no such column."""
    schema = pa.schema([RECORD_SCHEMA.field(name) for name in columns])
    held, count = [schema.empty_table()], 0
    uris = metadata_files(output)
    for start in range(0, len(uris), _FILES):
        tables = read_all(uris[start : start + _FILES], columns=list(columns))[0].values()
        held += [table.replace_schema_metadata(None) for table in tables]
        count += sum(map(len, tables))
        if count >= _ROWS:
            yield pa.concat_tables(held, promote_options="permissive")
            held, count = [schema.empty_table()], 0
    yield pa.concat_tables(held, promote_options="permissive")


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
