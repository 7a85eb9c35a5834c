"""The files of the table: Parquet, and JSON until it is in there."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from latentsync_ray import redact
from latentsync_ray.arguments import path_text
from latentsync_ray.errors import ConfigError, InputNotFound
from latentsync_ray.layout import metadata_folder, partition_of, record_uri, records_folder
from latentsync_ray.records.schema import RECORD_SCHEMA, is_outdated, one_row_a_clip, renamed, upgraded
from latentsync_ray.storage import fetch, file_sizes, list_files, read_bytes, write_bytes
from latentsync_ray.types import ClipRecord

__all__ = [
    "LOOKS",
    "SUPERSEDES",
    "WEIGHED",
    "commit_pending",
    "encoded",
    "metadata_files",
    "pending_records",
    "read_all",
    "read_file",
    "read_records",
    "read_table",
    "row_count",
]

log = logging.getLogger(__name__)
_T = TypeVar("_T")

SUPERSEDES = b"latentsync_ray.supersedes"
"""Key in a file's Parquet metadata: names of files beside it whose rows it took over: these do not count even if there."""
WEIGHED = ("clip_id", "status", "finished_at")
"""Columns that tell which of a clip's rows counts."""
LOOKS = 8
"""Times that the table is listed by a reader: a run that is at work may merge files before they are read."""
_READERS = 16
"""Small files read at once: an object store takes tens of milliseconds for each."""


def read_records(output: Any, *, columns: list[str] | None = None) -> pa.Table:
    """The table of an output folder (a path or URI), one row per clip in no particular order.

    Raises ConfigError when there are no records: it is no output folder, or nothing is finished yet.
    """
    output = path_text(output, "output")
    needed = None if columns is None else [*columns, *(name for name in WEIGHED if name not in columns)]
    tables = list(read_table(output, columns=needed)[0].values())
    if not tables:
        raise ConfigError(f"{output} has no records: it is not the output of a job, or none of its clips is finished yet")
    empty = pa.schema([field for field in RECORD_SCHEMA if needed is None or field.name in needed]).empty_table()
    table = one_row_a_clip(pa.concat_tables([empty, *tables], promote_options="permissive").replace_schema_metadata(None))
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


def commit_pending(output: str, record: ClipRecord) -> None:
    """Make a published clip's record safe, before the driver gets to it."""
    write_bytes(record_uri(output, record.clip_id), json.dumps(record.to_json()).encode())


def pending_records(output: str) -> tuple[list[str], list[ClipRecord]]:
    """URIs of the records that workers committed, and the records. What vanishes meanwhile is in the table.

    A file that a dying machine left empty or torn counts as no record.
    """

    def read(uri: str) -> bytes | None:
        with suppress(InputNotFound):
            return read_bytes(uri)
        return None

    uris = [uri for uri in list_files(records_folder(output)) if uri.endswith(".json")]
    with ThreadPoolExecutor(_READERS) as pool:
        rows = [_row(uri, content) for uri, content in zip(uris, pool.map(read, uris), strict=True) if content is not None]
    return uris, [record for row in rows if row for record in _records_of(row)]


def _row(uri: str, content: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        row = json.loads(content)
        if isinstance(row, dict) and row.get("clip_id"):
            return row
    log.warning("%s is no whole record: its clip is made again", redact.shown(uri))
    return None


def _records_of(row: dict[str, Any]) -> Iterator[ClipRecord]:
    table = renamed(pa.Table.from_pylist([row]))
    if "output_path" in row:
        table = table.select([name for name in table.column_names if name in RECORD_SCHEMA.names])
        table = table.cast(pa.schema([RECORD_SCHEMA.field(name) for name in table.column_names]))
    else:
        table = upgraded(table)
    yield from map(ClipRecord.from_row, table.to_pylist())


def metadata_files(output: str) -> dict[str, int]:
    """URIs of the table's files, and their bytes."""
    files = file_sizes(metadata_folder(output))
    return {uri: size for uri, size in files.items() if uri.endswith(".parquet") and partition_of(uri, output) is not None}


def encoded(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_file(uri: str, output: str) -> pa.Table:
    """All columns of a file, in today's schema."""
    return _read(uri, output, columns=None)[1]


def row_count(uri: str) -> int:
    """Rows of a file."""
    with _opened(uri) as file:
        return file.metadata.num_rows


def read_table(
    output: str, *, columns: list[str] | None, each: Callable[[pa.Schema, pa.Table], _T] = lambda _, table: table
) -> tuple[dict[str, _T], list[str]]:
    """As ``read_all`` of all files of the table, as they are while a run is at work."""
    held: dict[str, tuple[set[str], _T]] = {}
    for _ in range(LOOKS):
        uris = list(metadata_files(output))
        held = {uri: held[uri] for uri in uris if uri in held}
        held |= _read_those([uri for uri in uris if uri not in held], output, columns=columns, each=each, missing=True)
        if len(held) == len(uris):
            return _counting({uri: held[uri] for uri in uris})
    raise InputNotFound(f"files of the table in {metadata_folder(output)} vanish faster than they can be read; try again")


def read_all(
    uris: list[str],
    output: str,
    *,
    columns: list[str] | None,
    each: Callable[[pa.Schema, pa.Table], _T] = lambda _, table: table,
) -> tuple[dict[str, _T], list[str]]:
    """URI -> what ``each`` makes of its schema (of all columns) and rows (of ``columns``), of the files that count.

    And the URIs of those whose rows another file took over. Only what ``each`` gives is held of a file. Raises InputNotFound
    for one that is not there any more.
    """
    return _counting(_read_those(uris, output, columns=columns, each=each))


def _read_those(
    uris: list[str],
    output: str,
    *,
    columns: list[str] | None,
    each: Callable[[pa.Schema, pa.Table], _T],
    missing: bool = False,
) -> dict[str, tuple[set[str], _T]]:
    """URI -> the URIs that the file took over, and what ``each`` makes of it. ``missing`` ones may be left out."""

    def read(uri: str) -> tuple[set[str], _T] | None:
        try:
            schema, table = _read(uri, output, columns=columns)
        except InputNotFound:
            if missing:
                return None
            raise
        names = json.loads((schema.metadata or {}).get(SUPERSEDES, b"[]"))
        return {f"{uri.rpartition('/')[0]}/{name}" for name in names}, each(schema, table)

    with ThreadPoolExecutor(_READERS) as pool:
        return {uri: made for uri, made in zip(uris, pool.map(read, uris), strict=True) if made is not None}


def _counting(files: dict[str, tuple[set[str], _T]]) -> tuple[dict[str, _T], list[str]]:
    taken_over = {uri for names, _ in files.values() for uri in names}
    return {uri: made for uri, (_, made) in files.items() if uri not in taken_over}, [uri for uri in files if uri in taken_over]


def _read(uri: str, output: str, *, columns: list[str] | None) -> tuple[pa.Schema, pa.Table]:
    """Schema of all columns and the rows of these, in today's types."""
    place = partition_of(uri, output) or {}
    with _opened(uri) as file:
        schema = file.schema_arrow
        if not is_outdated(schema):
            whole, table = schema.empty_table(), file.read(columns)
        else:
            table = upgraded(file.read())  # of old files all columns: what a cell means depends on others
            whole = table.slice(0, 0).replace_schema_metadata(schema.metadata)
    whole, table = _placed(whole, place), _placed(table, place)
    return whole.schema, table if columns is None else table.select([name for name in columns if name in table.column_names])


def _placed(table: pa.Table, place: dict[str, str | None]) -> pa.Table:
    """The table with the columns that its place stands for."""
    for name, value in place.items():
        column = pa.repeat(pa.scalar(value, pa.string()), len(table))
        if name in table.column_names:  # what others wrote: Spark and DuckDB take the place's value, too
            table = table.drop_columns(name)
        table = table.append_column(name, column)
    return table


@contextmanager
def _opened(uri: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(fetch(uri)) as file:
            yield file
    except FileNotFoundError as error:
        raise InputNotFound(f"{uri} does not exist any more") from error
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{uri} is not a readable Parquet file ({error}); move it away to have its clips made again"
        ) from error
