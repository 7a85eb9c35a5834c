"""The files of the table: Parquet, and JSON until it is in there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from latentsync_ray.arguments import path_text
from latentsync_ray.errors import ConfigError
from latentsync_ray.layout import metadata_folder, record_uri, records_folder
from latentsync_ray.records.schema import RECORD_SCHEMA, is_outdated, one_row_a_clip, renamed, upgraded
from latentsync_ray.storage import fetch, list_files, read_bytes, write_bytes
from latentsync_ray.types import ClipRecord

__all__ = [
    "SUPERSEDES",
    "WEIGHED",
    "commit_pending",
    "encoded",
    "metadata_files",
    "pending_records",
    "read_all",
    "read_file",
    "read_records",
    "row_count",
]

_T = TypeVar("_T")

SUPERSEDES = b"latentsync_ray.supersedes"
"""Key in a file's Parquet metadata: names of the files whose rows it took over, which do not count even if still there."""
WEIGHED = ("clip_id", "status", "finished_at")
"""Columns that tell which of a clip's rows counts."""
_READERS = 16
"""Small files read at once: an object store takes tens of milliseconds for each."""


def read_records(output: Any, *, columns: list[str] | None = None) -> pa.Table:
    """The table of an output folder (a path or URI), one row per clip in no particular order.

    Raises ConfigError when there are no records: it is no output folder, or nothing is finished yet.
    """
    output = path_text(output, "output")
    files = metadata_files(output)
    if not files:
        raise ConfigError(f"{output} has no records: it is not the output of a job, or none of its clips is finished yet")
    needed = None if columns is None else [*columns, *(name for name in WEIGHED if name not in columns)]
    tables = list(read_all(files, columns=needed)[0].values())
    empty = pa.schema([field for field in RECORD_SCHEMA if needed is None or field.name in needed]).empty_table()
    table = one_row_a_clip(pa.concat_tables([empty, *tables], promote_options="permissive").replace_schema_metadata(None))
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


def commit_pending(output: str, record: ClipRecord) -> None:
    """Make a published clip's record safe, before the driver gets to it."""
    write_bytes(record_uri(output, record.clip_id), json.dumps(record.to_json()).encode())


def pending_records(output: str) -> tuple[list[str], list[ClipRecord]]:
    """URIs of the records that workers committed, and the records."""
    uris = [uri for uri in list_files(records_folder(output)) if uri.endswith(".json")]
    with ThreadPoolExecutor(_READERS) as pool:
        rows = [json.loads(content) for content in pool.map(read_bytes, uris)]
    return uris, [record for row in rows for record in _records_of(row)]


def _records_of(row: dict[str, Any]) -> Iterator[ClipRecord]:
    table = renamed(pa.Table.from_pylist([row]))
    if "output_path" in row:
        table = table.select([name for name in table.column_names if name in RECORD_SCHEMA.names])
        table = table.cast(pa.schema([RECORD_SCHEMA.field(name) for name in table.column_names]))
    else:
        table = upgraded(table)
    yield from map(ClipRecord.from_row, table.to_pylist())


def metadata_files(output: str) -> list[str]:
    """URIs of the table's files."""
    return [uri for uri in list_files(metadata_folder(output)) if uri.endswith(".parquet")]


def encoded(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_file(uri: str) -> pa.Table:
    """All columns of a file, in today's schema."""
    return _read(uri, columns=None)[1]


def row_count(uri: str) -> int:
    """Rows of a file."""
    with _opened(uri) as file:
        return file.metadata.num_rows


def read_all(
    uris: list[str], *, columns: list[str] | None, each: Callable[[pa.Schema, pa.Table], _T] = lambda _, table: table
) -> tuple[dict[str, _T], list[str]]:
    """URI -> what ``each`` makes of its schema (of all columns) and rows (of ``columns``), of the files that count.

    And the URIs of those whose rows another file took over. Only what ``each`` gives is held of a file.
    """

    def read(uri: str) -> tuple[list[str], _T]:
        schema, table = _read(uri, columns=columns)
        return json.loads((schema.metadata or {}).get(SUPERSEDES, b"[]")), each(schema, table)

    with ThreadPoolExecutor(_READERS) as pool:
        files = dict(zip(uris, pool.map(read, uris), strict=True))
    taken_over = {name for names, _ in files.values() for name in names}
    superseded = [uri for uri in uris if uri.rsplit("/", 1)[-1] in taken_over]
    return {uri: files[uri][1] for uri in uris if uri not in superseded}, superseded


def _read(uri: str, *, columns: list[str] | None) -> tuple[pa.Schema, pa.Table]:
    """Schema of all columns and the rows of these, in today's types."""
    with _opened(uri) as file:
        schema = file.schema_arrow
        if not is_outdated(schema):
            return schema, file.read(columns)
        table = upgraded(file.read())  # of old files all columns: what a cell means depends on others
        whole = table.schema.with_metadata(schema.metadata)
        return whole, table if columns is None else table.select([name for name in columns if name in table.column_names])


@contextmanager
def _opened(uri: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(fetch(uri)) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{uri} is not a readable Parquet file ({error}); move it away to have its clips made again"
        ) from error
