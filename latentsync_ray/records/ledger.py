"""The driver's side of the table: which clips are finished, and adding to them.

A clip is finished when its row is safe, and that takes two steps: the worker that published the MP4 leaves the row as a small
JSON file (``commit_pending``); the driver collects rows into Parquet and removes the JSON. Whatever is killed between any two
steps, the next ``Records`` finds every finished clip, and no clip twice. One driver writes to an output at a time (``lease``).
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray.errors import CLIP_ERRORS, ConfigError, StorageUnavailable
from latentsync_ray.layout import join, metadata_folder, record_uri
from latentsync_ray.records.files import (
    SUPERSEDES,
    WEIGHED,
    encoded,
    metadata_files,
    pending_records,
    read_all,
    read_file,
    row_count,
)
from latentsync_ray.records.finished import Finished
from latentsync_ray.records.lookup import look_up
from latentsync_ray.records.schema import RECORD_SCHEMA, carried_name, one_row_a_clip, to_table
from latentsync_ray.storage import delete, write_bytes
from latentsync_ray.types import ClipRecord

__all__ = ["Records"]

log = logging.getLogger(__name__)
_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_MANY_FILES = 5
"""More than these are worth a word before they are read."""
_COMPACT_ROWS = 400_000
"""Most rows of a compacted file: about 80 MB."""
_COMPACT_EVERY = 50
"""Files that a run writes before it merges them."""
_TRANSIENT = [code for code, error in CLIP_ERRORS.items() if error.transient]


class Records:
    """What is done, and adding to it.

    ``extra`` has a ``clip_id`` and columns to carry along. Rows are written ``every_rows`` or ``every_seconds``, on ``flush``
    and on leaving a ``with`` block; of these only the last two raise when storage is unavailable, else rows are kept for the
    next time. ``confirm`` is asked before anything is written, and raises when this run may not any more. ``note`` is told when
    there is much to read first. ``read_only`` is for a look while another run is at work: nothing is tidied up.

    Raises ConfigError when the output has clips made with another ``recipe`` (a fingerprint) than this one, unless
    ``mixed_recipes``, or when its columns do not go together with ``extra``.
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
        confirm: Callable[[], None] = lambda: None,
        note: Callable[[str], None] | None = None,
        read_only: bool = False,
    ) -> None:
        self.output, self._read_only = output, read_only
        self._finished = Finished()
        self._outdated: list[pa.ChunkedArray] = []
        """Clips that failed under another recipe: this one may do better."""
        self._extra = _named(extra) if extra is not None and extra.num_columns > 1 else None
        self._recipe, self._mixed_recipes = recipe, mixed_recipes
        self._every_rows, self._every_seconds, self._confirm = every_rows, every_seconds, confirm
        self._new: dict[str, ClipRecord] = {}
        self._kept = 0
        """Rows of ``_new`` that storage did not take the last time."""
        self._settled: list[str] = []
        """URIs of pending records whose rows are in the table."""
        self._flushed_at = time.monotonic()
        self._run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
        self._file_count = self._compacted = 0
        self._load(note)
        self.absorb()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()

    def __len__(self) -> int:
        """Clips that have a row."""
        return len(self._finished)

    def codes(self, clip_ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """The error code of each of these clips: empty text when it is dubbed, null when it has no row. Writes what is new."""
        self.flush()
        return self._finished.codes(clip_ids)

    def failed(self, clip_ids: pa.ChunkedArray) -> int:
        """How many of these clips have the row of a failed one. Writes what is new."""
        self.flush()
        return _pc.sum(_pc.is_in(clip_ids, self._finished.failed())).as_py() or 0

    def left(self, clip_ids: pa.ChunkedArray, *, retry: Sequence[str] = ()) -> np.ndarray:
        """Indices, int64 (n,), of the clips that have to be made: those without a row, and those whose error may pass.

        ``retry`` adds those that failed with one of these codes; ``failed`` stands for all codes, ``all`` for all clips.
        """
        if "all" in retry:
            return np.arange(len(clip_ids))
        codes = self.codes(clip_ids)
        again = _pc.is_in(codes, pa.array([*_TRANSIENT, *retry]))
        if self._outdated:
            outdated = pa.chunked_array([chunk for each in self._outdated for chunk in each.chunks], pa.string())
            again = _pc.or_(again, _pc.is_in(clip_ids, outdated))
        failed = _pc.not_equal(_pc.fill_null(codes, ""), "")
        again = failed if "failed" in retry else _pc.and_(failed, again)
        return np.flatnonzero(_pc.or_(_pc.is_null(codes), again).to_numpy())

    def removed(self, clip_ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """The clips that have a row and are none of these."""
        return self._finished.without(clip_ids)

    def reopen(self, clip_ids: pa.ChunkedArray) -> None:
        """Take out the rows of clips that are made again."""
        self._take_out(clip_ids.filter(self.codes(clip_ids).is_valid()))

    def kept_for_another_run(self) -> set[str]:
        """The clips that failed for a reason that may pass: the next run tries them by itself."""
        return set(self._finished.with_code(_TRANSIENT).to_pylist())

    def add(self, record: ClipRecord) -> None:
        """Note a finished clip; it replaces the row that the clip may have."""
        self._new[record.clip_id] = record
        if len(self._new) - self._kept >= self._every_rows or time.monotonic() - self._flushed_at >= self._every_seconds:
            try:
                self.flush()
                if self._file_count - self._compacted >= _COMPACT_EVERY:
                    self.compact()
            except StorageUnavailable as error:  # worth another try, and no reason to end a run of days
                self._kept, self._flushed_at = len(self._new), time.monotonic()
                log.warning("%d records could not be written and are kept for the next time: %s", self._kept, error)

    def flush(self) -> None:
        """Write what was added since the last time as one more file."""
        self._flushed_at = time.monotonic()
        if self._new or self._settled:
            self._confirm()
        if self._new:
            rows = to_table(self._new.values())
            known = self._finished.codes(rows["clip_id"])
            self._take_out(rows["clip_id"].filter(known.is_valid()))
            self._write(self._with_extra(rows))
            self._finished.add(rows["clip_id"], rows["error_code"])
            self._settled += [record_uri(self.output, record.clip_id) for record in self._new.values() if record.ok]
            self._new, self._kept = {}, 0
        if self._settled:
            delete(self._settled)
            self._settled = []

    def compact(self) -> None:
        """Merge small files into large ones. A merged file names those it replaces, so their rows never count twice."""
        self.flush()
        self._confirm()
        group: dict[str, pa.Table] = {}
        for uri in metadata_files(self.output):
            if row_count(uri) >= _COMPACT_ROWS // 2:
                continue
            table = read_file(uri)
            if group and sum(map(len, group.values())) + len(table) > _COMPACT_ROWS:
                self._merge(group)
                group = {}
            group[uri] = table
        self._merge(group)
        self._compacted = self._file_count

    def _merge(self, group: dict[str, pa.Table]) -> None:
        if len(group) < 2:
            return
        merged = pa.concat_tables(list(group.values()), promote_options="permissive")
        names = [uri.rsplit("/", 1)[-1] for uri in group]
        self._write(merged.replace_schema_metadata({SUPERSEDES: json.dumps(names)}), kind="merged")
        delete(group)

    def _load(self, note: Callable[[str], None] | None) -> None:
        schemas = [RECORD_SCHEMA] if self._extra is None else [RECORD_SCHEMA, self._extra.schema]
        uris = metadata_files(self.output)
        if note and len(uris) > _MANY_FILES:
            note(f"reading the records of earlier runs, {len(uris)} files")
        files, superseded = read_all(uris, columns=["clip_id", "error_code", "recipe"], each=_Rows)
        if not self._read_only:
            delete(superseded)
        if not self._read_only and (doubled := _with_common_clips(files)):
            self._drop_outweighed(doubled)
            self._load(note)
            return
        for rows in files.values():
            schemas.append(rows.schema)
            self._check_recipe(rows.recipes)
            self._outdated += [ids for recipe, ids in rows.failed_with.items() if self._recipe and recipe != self._recipe]
            self._finished.add(rows.clip_ids, rows.codes)
        try:
            pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise ConfigError(
                f"the manifest's extra columns do not go together with those in {metadata_folder(self.output)}: {error}; "
                "rename the column or choose another output folder"
            ) from error

    def _check_recipe(self, made_with: Iterable[str | None]) -> None:
        others = sorted({recipe or "unknown" for recipe in made_with} - {self._recipe})
        if self._recipe and others and not self._mixed_recipes:
            raise ConfigError(
                f"{self.output} holds clips made with another recipe ({', '.join(others)}, now {self._recipe}); "
                "choose another output folder for the new recipe, or keep both in this one with mixed_recipes=true. Of a "
                "recipe, rows hold model, detector, steps, cache_interval and what they may set themselves, and nothing else"
            )

    def absorb(self) -> None:
        """Take over what workers committed and no driver wrote down, unless the clip has a successful row that is as new."""
        uris, records = pending_records(self.output)
        self._check_recipe(record.recipe for record in records)
        ids = pa.chunked_array([[record.clip_id for record in records]], pa.string())
        codes = self.codes(ids)
        if self._read_only:
            new = to_table(record for record, code in zip(records, codes.to_pylist(), strict=True) if code is None)
            self._finished.add(new["clip_id"], new["error_code"])
            return
        known = look_up(self.output, ids, ["finished_at"])["finished_at"].to_pylist() if records else []
        for record, code, before in zip(records, codes.to_pylist(), known, strict=True):
            if code != "" or (before and record.finished_at and record.finished_at > before):
                self.add(record)
        self.flush()
        delete(uris)

    def _take_out(self, clip_ids: pa.ChunkedArray) -> None:
        """Rewrite the files that hold rows of these clips without them."""
        if not len(clip_ids):
            return
        self._confirm()
        self._finished.drop(clip_ids)
        for uri, held in read_all(metadata_files(self.output), columns=["clip_id"])[0].items():
            if not _pc.any(_pc.is_in(held["clip_id"], clip_ids)).as_py():
                continue
            table = read_file(uri)
            self._rewrite(uri, table.filter(_pc.invert(_pc.is_in(table["clip_id"], clip_ids))))

    def _drop_outweighed(self, uris: list[str]) -> None:
        """Leave one row of each clip in these files."""
        self._confirm()
        held = read_all(uris, columns=list(WEIGHED))[0]
        numbered = [
            rows.append_column("file", pa.array(np.full(len(rows), number))).append_column(
                "row", pa.array(np.arange(len(rows)))
            )
            for number, rows in enumerate(held.values())
        ]
        kept = one_row_a_clip(pa.concat_tables(numbered, promote_options="permissive"))
        for number, (uri, rows) in enumerate(held.items()):
            mine = np.zeros(len(rows), np.bool_)
            mine[kept.filter(_pc.equal(kept["file"], number))["row"].to_numpy()] = True
            if not mine.all():
                self._rewrite(uri, read_file(uri).filter(pa.array(mine)))

    def _rewrite(self, uri: str, table: pa.Table) -> None:
        if len(table) == 0:
            delete([uri])
        else:
            write_bytes(uri, encoded(table))

    def _with_extra(self, table: pa.Table) -> pa.Table:
        if self._extra is None:
            return table
        ours = self._extra.filter(_pc.is_in(self._extra["clip_id"], table["clip_id"]))
        carried = ours.take(_pc.index_in(table["clip_id"], ours["clip_id"])).drop_columns("clip_id")
        for name in carried.column_names:
            table = table.append_column(carried.schema.field(name), carried[name])
        return table

    def _write(self, table: pa.Table, *, kind: str = "part") -> None:
        write_bytes(join(metadata_folder(self.output), f"{kind}-{self._run}-{self._file_count:05d}.parquet"), encoded(table))
        self._file_count += 1  # not of one that failed: it may be there all the same, and has to be written over


class _Rows:
    """What is kept in memory of a file of the table."""

    def __init__(self, schema: pa.Schema, table: pa.Table) -> None:
        self.schema, self.clip_ids, self.codes = schema, table["clip_id"], table["error_code"]
        failed = table.filter(table["error_code"].is_valid())
        self.recipes = _pc.unique(table.filter(table["error_code"].is_null())["recipe"]).to_pylist()
        """Of the clips that are dubbed."""
        self.failed_with = {
            recipe: failed.filter(_pc.equal(failed["recipe"], recipe))["clip_id"]
            for recipe in failed["recipe"].unique().to_pylist()
            if recipe
        }
        """Recipe -> ids of the clips that failed with it."""


def _with_common_clips(files: dict[str, _Rows]) -> list[str]:
    """The files that hold a clip which has another row, in the same or another of them."""
    if not files:
        return []
    ids = pa.chunked_array([chunk for rows in files.values() for chunk in rows.clip_ids.chunks], pa.string())
    if _pc.count_distinct(ids).as_py() == len(ids):
        return []
    counts = ids.value_counts()
    common = counts.filter(_pc.greater(_pc.struct_field(counts, "counts"), 1)).field("values")
    return [uri for uri, rows in files.items() if _pc.any(_pc.is_in(rows.clip_ids, common)).as_py()]


def _named(extra: pa.Table) -> pa.Table:
    """The columns to carry, under the names they have in the table. Raises ConfigError when two get the same."""
    names = [name if name == "clip_id" else carried_name(name) for name in extra.column_names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"the manifest has a column {twice!r}, the name its column {twice.partition('_')[2]!r} is carried under: rename one"
        )
    return extra.rename_columns(names)
