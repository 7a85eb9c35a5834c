"""The table of finished clips: Parquet files in ``{output}/metadata``, one row per clip, failed ones included.

A clip is finished when its row is safe, and that takes two steps: the worker that published the MP4 leaves the row as a small
JSON file (``commit_pending``); the driver collects rows into Parquet and removes the JSON. Whatever is killed between any two
steps, the next ``Records`` finds every finished clip, and no clip twice. One driver writes to an output at a time (``lease``).
"""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from datetime import datetime
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from latentsync_ray.errors import ConfigError, StorageUnavailable, is_transient
from latentsync_ray.storage import delete, fetch, join, list_files, read_bytes, write_bytes
from latentsync_ray.types import ClipRecord

__all__ = ["RECORD_SCHEMA", "Records", "commit_pending", "read_records"]

log = logging.getLogger(__name__)
_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_SUPERSEDES = b"latentsync_ray.supersedes"
"""Key in a file's Parquet metadata: names of the files whose rows it took over, which do not count even if still there."""
_READERS = 16
"""Small files read at once: an object store takes tens of milliseconds for each."""
_MANY_FILES = 5
"""More than these are worth a word before they are read."""
_COMPACT_ROWS = 100_000
"""Rows of a compacted file: about 20 MB."""


_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", "UTC"),
}


def _arrow_type(hint: Any) -> pa.DataType:
    if type(None) in get_args(hint):  # "X | None"
        hint = get_args(hint)[0]
    return pa.string() if get_origin(hint) is Literal else _TYPES[hint]


RECORD_SCHEMA: pa.Schema = pa.schema([(name, _arrow_type(hint)) for name, hint in get_type_hints(ClipRecord).items()])
"""Columns of the table; those of the manifest that are carried along come after them."""


def commit_pending(output: str, record: ClipRecord) -> None:
    """Make a published clip's record safe, before the driver gets to it."""
    write_bytes(_pending_uri(output, record.clip_id), json.dumps(record.to_json()).encode())


def read_records(output: str, *, columns: list[str] | None = None) -> pa.Table:
    """The table of an output folder, one row per clip in no particular order; empty when nothing is finished."""
    tables = [table for _, table in _read_all(_files(output), columns=columns)[0].values()]
    empty = pa.schema([field for field in RECORD_SCHEMA if columns is None or field.name in columns]).empty_table()
    return pa.concat_tables([empty, *tables], promote_options="permissive").replace_schema_metadata(None)


class Records:
    """The driver's side of the table: what is done, and adding to it.

    ``extra`` has a ``clip_id`` and columns to carry along. Rows are written ``every_rows`` or ``every_seconds``, on ``flush``
    and on leaving a ``with`` block; of these only the last two raise when storage is unavailable, else rows are kept for the
    next time. ``note`` is told when there is much to read first. Raises ConfigError when the output has clips made with another
    ``recipe`` (a fingerprint) than this one, unless ``mixed_recipes``, or when its columns do not go together with ``extra``.
    """

    def __init__(
        self,
        output: str,
        *,
        extra: pa.Table | None = None,
        recipe: str | None = None,
        mixed_recipes: bool = False,
        every_rows: int = 500,
        every_seconds: float = 120,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.output = output
        self.done: dict[str, str] = {}
        """clip_id -> its error code, empty when it succeeded."""
        self._outdated: set[str] = set()
        """Clips that failed under another recipe: this one may do better."""
        self._extra = extra.combine_chunks() if extra is not None and extra.num_columns > 1 else None
        self._recipe, self._mixed_recipes = recipe, mixed_recipes
        self._every_rows, self._every_seconds = every_rows, every_seconds
        self._new: dict[str, ClipRecord] = {}
        self._replaced: set[str] = set()
        self._kept = 0
        """Rows of ``_new`` that storage did not take the last time."""
        self._settled: list[str] = []
        """URIs of pending records whose rows are in the table."""
        self._flushed_at = time.monotonic()
        self._run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
        self._file_count = 0
        self._load(note)
        self.absorb()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()

    def left(self, clip_ids: pa.ChunkedArray, *, retry_failed: bool = False) -> list[int]:
        """Indices of the clips that have to be made: those without a row, and those whose error may pass.

        ``retry_failed`` adds those that failed for a reason in their data. Old rows of clips that are made again are taken out.
        """
        todo, again = [], set()
        for index, clip_id in enumerate(clip_ids.to_pylist()):
            code = self.done.get(clip_id)
            if code and (retry_failed or is_transient(code) or clip_id in self._outdated):
                again.add(clip_id)
            if code is None or clip_id in again:
                todo.append(index)
        self.flush()
        self._take_out(again)
        for clip_id in again:
            del self.done[clip_id]
        return todo

    def add(self, record: ClipRecord) -> None:
        """Note a finished clip; it replaces the row that the clip may have."""
        clip_id = record.clip_id
        if clip_id in self.done and clip_id not in self._new:
            self._replaced.add(clip_id)
        self.done[clip_id] = sys.intern(record.error_code)
        self._new[clip_id] = record
        if len(self._new) - self._kept >= self._every_rows or time.monotonic() - self._flushed_at >= self._every_seconds:
            try:
                self.flush()
            except StorageUnavailable as error:  # worth another try, and no reason to end a run of days
                self._kept, self._flushed_at = len(self._new), time.monotonic()
                log.warning("%d records could not be written and are kept for the next time: %s", self._kept, error)

    def flush(self) -> None:
        """Write what was added since the last time as one more file."""
        self._flushed_at = time.monotonic()
        if self._new:
            self._take_out(self._replaced)
            rows = [record.to_row() for record in self._new.values()]
            self._write(self._with_extra(pa.Table.from_pylist(rows, RECORD_SCHEMA)))
            done = [record.clip_id for record in self._new.values() if record.status == "ok"]
            self._settled += [_pending_uri(self.output, clip_id) for clip_id in done]
            self._new, self._replaced, self._kept = {}, set(), 0
        if self._settled:
            delete(self._settled)
            self._settled = []

    def compact(self) -> None:
        """Merge small files into large ones. A merged file names those it replaces, so their rows never count twice."""
        self.flush()
        group: dict[str, pa.Table] = {}
        for uri in _files(self.output):
            table = _read(uri)
            if len(table) >= _COMPACT_ROWS // 2:
                continue
            if group and sum(map(len, group.values())) + len(table) > _COMPACT_ROWS:
                self._merge(group)
                group = {}
            group[uri] = table
        self._merge(group)

    def _merge(self, group: dict[str, pa.Table]) -> None:
        if len(group) < 2:
            return
        merged = pa.concat_tables(list(group.values()), promote_options="permissive")
        names = [uri.rsplit("/", 1)[-1] for uri in group]
        self._write(merged.replace_schema_metadata({_SUPERSEDES: json.dumps(names)}), kind="merged")
        delete(group)

    def _load(self, note: Callable[[str], None] | None) -> None:
        schemas = [RECORD_SCHEMA] if self._extra is None else [RECORD_SCHEMA, self._extra.schema]
        uris = _files(self.output)
        if note and len(uris) > _MANY_FILES:
            note(f"reading the records of earlier runs, {len(uris)} files")
        files, superseded = _read_all(uris, columns=["clip_id", "status", "error_code", "recipe"])
        delete(superseded)
        for schema, table in files.values():
            schemas.append(schema)
            self._check_recipe(table.filter(_pc.field("status") == "ok")["recipe"].unique().to_pylist())
            if self._recipe:
                stale = table.filter((_pc.field("status") != "ok") & (_pc.field("recipe") != self._recipe))
                self._outdated.update(stale["clip_id"].to_pylist())
            self.done.update(zip(table["clip_id"].to_pylist(), map(sys.intern, table["error_code"].to_pylist()), strict=True))
        try:
            pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise ConfigError(
                f"the manifest's extra columns do not go together with those in {_folder(self.output)}: {error}; "
                "rename the column or choose another output folder"
            ) from error

    def _check_recipe(self, made_with: Iterable[str]) -> None:
        others = sorted(set(made_with) - {self._recipe})
        if self._recipe and others and not self._mixed_recipes:
            raise ConfigError(
                f"{self.output} holds clips made with another recipe ({', '.join(others)}, now {self._recipe}); "
                "choose another output folder for the new recipe, or keep both in this one with mixed_recipes=true"
            )

    def absorb(self) -> None:
        """Take over what workers committed and no driver wrote down. A successful row that is there already is the same one."""
        uris = [uri for uri in list_files(join(self.output, "_work", "records")) if uri.endswith(".json")]
        with ThreadPoolExecutor(_READERS) as pool:
            rows = list(pool.map(read_bytes, uris))
        for row in rows:
            record = ClipRecord.from_row(json.loads(row))
            self._check_recipe([record.recipe])
            if self.done.get(record.clip_id) != "":
                self.add(record)
        self.flush()
        delete(uris)

    def _take_out(self, clip_ids: Iterable[str]) -> None:
        """Rewrite the files that hold rows of these clips without them."""
        if not clip_ids:
            return
        gone = pa.array(list(clip_ids), pa.string())
        for uri, (_, held) in _read_all(_files(self.output), columns=["clip_id"])[0].items():
            if not _pc.any(_pc.is_in(held["clip_id"], gone)).as_py():
                continue
            table = _read(uri)
            kept = table.filter(_pc.invert(_pc.is_in(table["clip_id"], gone)))
            if len(kept) == 0:
                delete([uri])
            else:
                write_bytes(uri, _encoded(kept))

    def _with_extra(self, table: pa.Table) -> pa.Table:
        if self._extra is None:
            return table
        carried = self._extra.take(_pc.index_in(table["clip_id"], self._extra["clip_id"])).drop_columns("clip_id")
        for name in carried.column_names:
            table = table.append_column(carried.schema.field(name), carried[name])
        return table

    def _write(self, table: pa.Table, *, kind: str = "part") -> None:
        write_bytes(join(_folder(self.output), f"{kind}-{self._run}-{self._file_count:05d}.parquet"), _encoded(table))
        self._file_count += 1  # not of one that failed: it may be there all the same, and has to be written over


def _folder(output: str) -> str:
    return join(output, "metadata")


def _files(output: str) -> list[str]:
    return [uri for uri in list_files(_folder(output)) if uri.endswith(".parquet")]


def _pending_uri(output: str, clip_id: str) -> str:
    return join(output, "_work", "records", f"{clip_id}.json")


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _read(uri: str, *, columns: list[str] | None = None) -> pa.Table:
    return _read_with_schema(uri, columns=columns)[1]


def _read_with_schema(uri: str, *, columns: list[str] | None) -> tuple[pa.Schema, pa.Table]:
    """The schema of all columns, and these columns."""
    try:
        with pq.ParquetFile(fetch(uri)) as file:
            return file.schema_arrow, file.read(columns)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{uri} is not a readable Parquet file ({error}); move it away to have its clips made again"
        ) from error


def _read_all(uris: list[str], *, columns: list[str] | None) -> tuple[dict[str, tuple[pa.Schema, pa.Table]], list[str]]:
    """URI -> what it holds, of the files that count; and the URIs of those whose rows another one took over."""
    with ThreadPoolExecutor(_READERS) as pool:
        files = dict(zip(uris, pool.map(partial(_read_with_schema, columns=columns), uris), strict=True))
    names = {name for schema, _ in files.values() for name in json.loads((schema.metadata or {}).get(_SUPERSEDES, b"[]"))}
    superseded = [uri for uri in uris if uri.rsplit("/", 1)[-1] in names]
    return {uri: files[uri] for uri in uris if uri not in superseded}, superseded
