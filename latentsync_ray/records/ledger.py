"""The driver's side of the table: which clips are finished, and adding to them.

A clip is finished when its row is safe, and that takes two steps: the worker that published the MP4 leaves the row as a small
JSON file (``commit_pending``); the driver collects rows into Parquet and removes the JSON. Whatever is killed between any two
steps, the next ``Records`` finds every finished clip, and no clip twice. One driver writes to an output at a time (``lease``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray.errors import CLIP_ERRORS, ConfigError, StorageUnavailable
from latentsync_ray.layout import join, metadata_folder, record_uri
from latentsync_ray.records.carried import check_together, named
from latentsync_ray.records.files import WEIGHED, metadata_files, pending_records, read_all, read_file, read_table
from latentsync_ray.records.finished import Finished
from latentsync_ray.records.held import Held, with_common_clips
from latentsync_ray.records.lookup import among, look_up, rows_where
from latentsync_ray.records.partition import check_partition
from latentsync_ray.records.schema import RECORD_SCHEMA, one_row_a_clip, to_table
from latentsync_ray.records.writer import Writer
from latentsync_ray.storage import delete
from latentsync_ray.types import ClipRecord

__all__ = ["Records"]

log = logging.getLogger(__name__)
_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_MANY_FILES = 5
"""More than these are worth a word before they are read."""
_LONG, _PATIENCE, _MOST_WAITING = 5.0, 20, 50_000
"""Where writing takes more seconds than the first, as when rows of millions are replaced, so many times as long is waited
before the next time, unless so many rows wait: pending records keep them safe.
"""
_TRANSIENT = [code for code, error in CLIP_ERRORS.items() if error.transient]


class Records:
    """What is done, and adding to it.

    ``extra`` has a ``clip_id`` and columns to carry along. Rows are written ``every_rows`` or ``every_seconds``, on ``flush``
    and on leaving a ``with`` block; of these only the last two raise when storage is unavailable, else rows are kept for the
    next time. ``confirm`` is asked before anything is written, and raises when this run may not any more. ``note`` is told when
    there is much to read first. ``read_only`` is for a look while another run is at work: nothing is tidied up.
    ``partition_by`` are the columns whose values are the folders of the table's files; files that lie otherwise are moved.

    Raises ConfigError when the output has clips made with another ``recipe`` (a fingerprint) than this one, unless
    ``mixed_recipes``, when its columns do not go together with ``extra``, or the table cannot be laid out by ``partition_by``.
    """

    def __init__(
        self,
        output: str,
        *,
        extra: pa.Table | None = None,
        partition_by: Sequence[str] = (),
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
        self._extra = named(extra) if extra is not None and extra.num_columns > 1 else None
        check_partition(partition_by, self._extra)
        self._recipe, self._mixed_recipes = recipe, mixed_recipes
        self._every_rows, self._every_seconds, self._confirm = every_rows, every_seconds, confirm
        self._new: dict[str, ClipRecord] = {}
        self._kept = 0
        """Rows of ``_new`` that storage did not take the last time."""
        self.refused = 0
        """Clips whose new row said that they failed, and that stay as they are since they have the row of a dubbed one."""
        self._settled: list[str] = []
        """URIs of pending records whose rows are in the table."""
        self._flushed_at, self._flush_seconds = time.monotonic(), 0.0
        self._writer = Writer(output, partition_by)
        if read_only:  # what moves from the one to the other meanwhile is seen
            pending = pending_records(output)
            self._load(note)
            self._look_at(*pending)
            return
        self._load(note)
        self._writer.arrange(note, confirm)
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
        """Note a finished clip; it replaces the row that the clip may have, unless that is of a dubbed one and this is not."""
        before = self._new.get(record.clip_id)
        if before is None or record.ok or not before.ok:
            self._new[record.clip_id] = record
        if self._due():
            try:
                self.flush()
                if self._writer.crowded():
                    self._compact(crowded=True)
            except StorageUnavailable as error:  # worth another try, and no reason to end a run of days
                self._kept, self._flushed_at = len(self._new), time.monotonic()
                log.warning("%d records could not be written and are kept for the next time: %s", self._kept, error)

    def _due(self) -> bool:
        waiting, since = len(self._new) - self._kept, time.monotonic() - self._flushed_at
        if self._flush_seconds > _LONG and since < _PATIENCE * self._flush_seconds:
            return waiting >= _MOST_WAITING
        return waiting >= self._every_rows or since >= self._every_seconds

    def flush(self) -> None:
        """Write what was added since the last time as more files."""
        self._flushed_at, began = time.monotonic(), time.perf_counter()
        if self._new or self._settled:
            self._confirm()
        if self._new:
            self._replace()
        for rows in self._writer.add(self._with_extra(to_table(self._new.values()))) if self._new else ():
            self._finished.add(rows["clip_id"], rows["error_code"])
            written = [self._new.pop(clip_id) for clip_id in rows["clip_id"].to_pylist()]
            self._settled += [record_uri(self.output, record.clip_id) for record in written if record.ok]
        self._kept = 0
        if self._settled:
            delete(self._settled)
            self._settled = []
        self._flush_seconds = time.perf_counter() - began

    def _replace(self) -> None:
        """Take out the rows that new ones are the successors of, and the files of clips that lie elsewhere now."""
        new = to_table(self._new.values()).select(["clip_id", "error_code", "output_path"])
        known = self._finished.codes(new["clip_id"])
        refused = _pc.and_(_pc.fill_null(_pc.equal(known, ""), False), new["error_code"].is_valid())
        for clip_id in new["clip_id"].filter(refused).to_pylist():
            log.warning("clip %s stays as it was, since making it again failed", clip_id)
            del self._new[clip_id]
            self.refused += 1
        again = new.filter(_pc.and_(known.is_valid(), _pc.invert(refused)))
        self._take_out(again["clip_id"], successors=again["output_path"])

    def compact(self) -> None:
        """Write what was added, and merge small files into large ones."""
        self.flush()
        self._compact()

    def _compact(self, *, crowded: bool = False) -> None:
        self._confirm()
        self._writer.compact(crowded=crowded)

    def _load(self, note: Callable[[str], None] | None) -> None:
        count = len(metadata_files(self.output)) if note else 0
        if note and count > _MANY_FILES:
            note(f"reading the records of earlier runs, {count} files")
        files, superseded = read_table(self.output, columns=["clip_id", "error_code", "recipe"], each=Held)
        if not self._read_only:
            delete(superseded, below=metadata_folder(self.output))
        if not self._read_only and (doubled := with_common_clips(files)):
            self._drop_outweighed(doubled)
            self._load(note)
            return
        for rows in files.values():
            self._check_recipe(rows.recipes)
            self._outdated += [ids for recipe, ids in rows.failed_with.items() if self._recipe and recipe != self._recipe]
            self._finished.add(rows.clip_ids, rows.codes)
        check_together(self._extra, {uri: rows.schema for uri, rows in files.items()}, self.output)

    def _check_recipe(self, made_with: Iterable[str | None]) -> None:
        others = sorted({recipe or "unknown" for recipe in made_with} - {self._recipe})
        if self._recipe and others and not self._mixed_recipes:
            raise ConfigError(
                f"{self.output} holds clips made with another recipe ({', '.join(others)}, now {self._recipe}); "
                "choose another output folder for the new recipe, or keep both in this one with mixed_recipes=true. Of a "
                "recipe, the table tells model, detector, steps, cache_interval and what rows may set: others look the same"
            )

    def absorb(self) -> list[str]:
        """Take over what workers committed and no driver wrote down, unless that is the clip's row already.

        Whatever clocks say, such a record is no older than the row, or it would have gone when the row was written.
        Gives the ids of the clips that it found dubbed, without those that have the row of a failed one.
        """
        dubbed: list[str] = []
        uris, records = pending_records(self.output)
        self._check_recipe(record.recipe for record in records)
        ids = pa.chunked_array([[record.clip_id for record in records]], pa.string())
        codes = self.codes(ids)
        telling = ["sha256", "output_path", "finished_at"]
        known = look_up(self.output, ids, telling).to_pylist() if records else []
        for record, code, before in zip(records, codes.to_pylist(), known, strict=True):
            if code != "" or (record.ok and before != {name: getattr(record, name) for name in telling}):
                self.add(record)
                dubbed += [record.clip_id] if record.ok and not code else []
        self.flush()
        delete(uris)
        return dubbed

    def _look_at(self, uris: list[str], records: list[ClipRecord]) -> None:
        """Count what workers committed as finished, and leave it where it is."""
        self._check_recipe(record.recipe for record in records)
        codes = self._finished.codes(pa.chunked_array([[record.clip_id for record in records]], pa.string())).to_pylist()
        new = to_table(record for record, code in zip(records, codes, strict=True) if code is None)
        self._finished.add(new["clip_id"], new["error_code"])

    def _take_out(self, clip_ids: pa.ChunkedArray, *, successors: pa.ChunkedArray | None = None) -> None:
        """Rewrite the files that hold rows of these clips without them.

        ``successors`` are the paths at which the clips lie from now on: files at their former paths go, before their rows do.
        """
        if not len(clip_ids):
            return
        self._confirm()

        def mine(_: pa.Schema, rows: pa.Table) -> pa.Table:
            return rows.filter(among(rows["clip_id"], clip_ids))

        held = read_table(self.output, columns=["clip_id", "output_path"], each=mine)[0]
        if successors is not None:
            self._remove_former(pa.table({"clip_id": clip_ids, "new": successors}), list(held.values()))
        self._finished.drop(clip_ids)
        for uri, rows in held.items():
            if len(rows):
                table = read_file(uri, self.output)
                self._writer.rewrite(uri, table.filter(_pc.invert(among(table["clip_id"], clip_ids))))

    def _remove_former(self, clips: pa.Table, held: list[pa.Table]) -> None:
        """Remove the files of clips that lie elsewhere now; not one that a row of another clip names, or a new row."""
        empty = RECORD_SCHEMA.empty_table().select(["clip_id", "output_path"])
        rows = pa.concat_tables([empty, *held], promote_options="permissive")
        now = clips["new"].take(_pc.index_in(rows["clip_id"], clips["clip_id"]))
        moved = rows.filter(_pc.fill_null(_pc.not_equal(rows["output_path"], now), False))
        if not len(moved):
            return
        own = rows_where(self.output, "output_path", moved["output_path"], [])
        others = own.filter(_pc.invert(_pc.is_in(own["clip_id"], moved["clip_id"])))["output_path"].to_pylist()
        kept = {*others, *(record.output_path for record in self._new.values())}
        delete((join(self.output, path) for path in moved["output_path"].to_pylist() if path not in kept), below=self.output)

    def _drop_outweighed(self, uris: list[str]) -> None:
        """Leave one row of each clip in these files."""
        self._confirm()
        held = read_all(uris, self.output, columns=list(WEIGHED))[0]
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
                self._writer.rewrite(uri, read_file(uri, self.output).filter(pa.array(mine)))

    def _with_extra(self, table: pa.Table) -> pa.Table:
        if self._extra is None:
            return table
        ours = self._extra.filter(_pc.is_in(self._extra["clip_id"], table["clip_id"]))
        carried = ours.take(_pc.index_in(table["clip_id"], ours["clip_id"])).drop_columns("clip_id")
        for name in carried.column_names:
            table = table.append_column(carried.schema.field(name), carried[name])
        return table
