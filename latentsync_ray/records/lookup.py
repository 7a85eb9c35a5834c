"""Single columns of the table, for the clips of a manifest: read file by file, and held only where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray.errors import InputNotFound
from latentsync_ray.records.files import LOOKS, metadata_files, read_all, read_table
from latentsync_ray.records.schema import RECORD_SCHEMA

__all__ = ["among", "in_batches", "look_up", "rows_where", "taken"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_FILES, _ROWS = 2, 1_000_000
"""Files read together, and rows of a batch at least."""
_TAKEN_AT_ONCE = 1_000_000


def look_up(output: str, clip_ids: pa.ChunkedArray, columns: Sequence[str]) -> pa.Table:
    """These columns of the record of each of ``clip_ids``, in their order; null where a clip has no row, or a row no column."""
    rows = rows_where(output, "clip_id", clip_ids, columns)
    places = _pc.index_in(clip_ids, rows["clip_id"])
    return pa.table({name: taken(rows[name], places) for name in columns})


def in_batches(output: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """These columns of all rows, about a million at a time; null where a row has no such column.

    A row may come twice when a run merges files meanwhile.
    """
    schema = pa.schema([RECORD_SCHEMA.field(name) for name in columns])
    held, count = [schema.empty_table()], 0
    uris, read, looks = list(metadata_files(output)), set[str](), 1
    while some := [uri for uri in uris if uri not in read][:_FILES]:
        try:
            tables = read_all(some, output, columns=list(columns))[0].values()
        except InputNotFound:
            if looks == LOOKS:
                raise
            uris, looks = list(metadata_files(output)), looks + 1
            continue
        read.update(some)
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
        return table.filter(among(table[column].cast(pa.string()), values)).replace_schema_metadata(None)

    found = read_table(output, columns=wanted, each=matching)[0].values()
    return pa.concat_tables([schema.empty_table(), *found], promote_options="permissive").select(wanted)


def among(column: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each of ``column`` is one of ``values``. The look-up table is made of the smaller side, 110 bytes a value."""
    if len(values) <= len(column):
        return _pc.is_in(column, values)
    distinct = column.unique()
    met = np.zeros(len(distinct), np.bool_)
    met[_pc.index_in(values, distinct).drop_null().to_numpy()] = True
    return _pc.is_in(column, distinct.filter(pa.array(met)))


def taken(column: pa.ChunkedArray, places: Any) -> pa.ChunkedArray:
    """``column.take(places)`` of any size: Arrow's own ends at 2 GB of text."""
    kind = column.type
    if pa.types.is_string(kind):
        column = column.cast(pa.large_string())
    whole = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
    pieces = [
        whole.take(piece.slice(start, _TAKEN_AT_ONCE)).cast(kind)
        for piece in (places.chunks if isinstance(places, pa.ChunkedArray) else [pa.array(places)])
        for start in range(0, len(piece), _TAKEN_AT_ONCE)
    ]
    return pa.chunked_array(pieces, kind)
