"""What a run has to make: rows without a record, those to be tried again, and those whose inputs or settings have changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray import storage
from latentsync_ray.changes import changed_rows, missing_rows, reset_rows
from latentsync_ray.config import Job
from latentsync_ray.errors import ConfigError, InputNotFound
from latentsync_ray.layout import clip_uri, join, prune_uri, relative
from latentsync_ray.marks import Marks
from latentsync_ray.records import Records, look_up, rows_where, taken

__all__ = ["Todo", "check_places", "check_prune", "find_todo", "finish_prune", "prune", "reopen", "rows_of"]

log = logging.getLogger(__name__)
_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_NAMED = 3
"""Clips that a message names."""
_LOGGED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Todo:
    """Rows of a manifest, by their numbers from 0, and what else there is to do."""

    rows: np.ndarray
    """int64 (n,): to be made by this run."""
    over_limit: np.ndarray
    """int64 (n,): left to another run by the job's ``limit``."""
    changed: np.ndarray
    """int64 (n,): those of ``rows`` that were finished before, with other inputs or settings."""
    missing: np.ndarray
    """int64 (n,): those of ``rows`` whose file is gone."""
    removed: pa.ChunkedArray
    """Ids of clips that have a row in the table and none in the manifest."""
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 (n,): marked so, and not to be made."""
    gone: pa.ChunkedArray = field(default_factory=lambda: pa.chunked_array([], pa.string()))
    """Ids of those of them that have a row in the table."""

    @property
    def unsettled(self) -> np.ndarray:
        """int64 (n,): those that do not stay as they are: to be made by this run or another, or dropped."""
        return np.unique(np.concatenate([self.rows, self.over_limit, self.dropped]))

    def others(self, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Of all ``ids`` of the manifest, those that stay as they are."""
        stay = np.ones(len(ids), np.bool_)
        stay[self.unsettled] = False
        return ids.filter(pa.array(stay))

    def to_remove(self, *, prune: bool) -> pa.ChunkedArray:
        """Ids of the clips that this run removes: dropped ones, and with ``prune`` those that left the manifest."""
        return pa.chunked_array([*self.gone.chunks, *(self.removed.chunks if prune else ())], pa.string())


def find_todo(
    job: Job,
    table: pa.Table,
    records: Records,
    phase: Callable[[str], None] = lambda _: None,
    marks: Marks = Marks(),  # noqa: B008 - none, and frozen
) -> Todo:
    """What ``job`` has to do for the manifest ``table``, whose rows may have ``marks``. Changes nothing.

    Raises ConfigError for changed rows if the job wants to fail at them.
    """
    ids = table["clip_id"]
    settled = np.union1d(marks.drop, _with_row(records, ids, marks.keep))
    rows = np.setdiff1d(records.left(ids, retry=job.retry), settled, assume_unique=True)

    def made() -> np.ndarray:
        return np.setdiff1d(np.arange(len(table)), np.union1d(rows, settled), assume_unique=True)

    changed = missing = rows[:0]
    if "missing" in job.retry and len(rows) < len(table):
        missing = missing_rows(table, made(), job.output, phase=phase)
        rows = np.union1d(rows, missing)
    again = reset_rows(table, np.setdiff1d(marks.redo, rows), job.output) if len(marks.redo) else rows[:0]
    rows = np.union1d(rows, again)
    if job.on_change != "keep" and len(rows) < len(table):
        changed = changed_rows(table, made(), job.output, content=job.content_hash, phase=phase)
        if len(changed) and job.on_change == "fail":
            raise ConfigError(
                f"the inputs or settings of {_clips(ids, changed)} changed since they were made, and on_change is fail; "
                "on_change=redo makes them again, on_change=keep leaves them"
            )
        rows = np.union1d(rows, changed)
    changed = np.union1d(changed, again)
    for row in changed[:_LOGGED].tolist():
        log.debug("clip %s has changed", ids[row].as_py())
    most = job.limit or len(rows)
    changed, missing = (np.intersect1d(some, rows[:most]) for some in (changed, missing))
    return Todo(
        rows=rows[:most],
        over_limit=rows[most:],
        changed=changed,
        missing=missing,
        removed=records.removed(ids),
        dropped=marks.drop,
        gone=_ids(table, _with_row(records, ids, marks.drop)),
    )


def _with_row(records: Records, ids: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
    """Those of ``rows`` (int64 (n,), of the manifest) that the table has a row of."""
    if not len(rows):
        return rows
    there = np.zeros(len(ids), np.bool_)
    there[rows] = True
    return rows[np.asarray(records.codes(ids.filter(pa.array(there))).is_valid())]


def _ids(table: pa.Table, rows: np.ndarray) -> pa.ChunkedArray:
    return rows_of(table, rows, ["clip_id"])["clip_id"]


def check_prune(output: str, records: Records, clip_ids: pa.ChunkedArray) -> None:
    """Raise ConfigError when these clips, which are to be removed, are most of the table: a manifest may be cut short."""
    if 2 * len(clip_ids) > len(records) and len(records) > 1:
        raise ConfigError(
            f"prune would remove {len(clip_ids)} of the {len(records)} clips in {output}, which the manifest does not have: "
            "more than half, so that it may be cut short. If it is whole, begin a new output"
        )


def prune(output: str, records: Records, clip_ids: pa.ChunkedArray) -> None:
    """Remove these clips, rows first, so that none is without its file. Should this break off, ``finish_prune`` goes on."""
    paths = look_up(output, clip_ids, ["output_path"])["output_path"].drop_null()
    storage.write_bytes(prune_uri(output), json.dumps(paths.to_pylist()).encode())
    records.reopen(clip_ids)
    finish_prune(output)


def finish_prune(output: str, confirm: Callable[[], None] = lambda: None) -> None:
    """Remove the files of a prune that is under way or broke off, unless a row names them. ``confirm`` is asked before."""
    try:
        paths = pa.chunked_array([json.loads(storage.read_bytes(prune_uri(output)))], pa.string())
    except (InputNotFound, ValueError):  # the latter where a machine went down before all of it was on its disk
        return
    confirm()
    named = rows_where(output, "output_path", paths, [])["output_path"]
    gone = paths.filter(_pc.invert(_pc.is_in(paths, named)))
    storage.delete((join(output, path.as_py()) for path in gone), below=output)
    storage.delete([prune_uri(output)])


def check_places(output: str, table: pa.Table, rows: np.ndarray, removed: pa.ChunkedArray | None = None) -> None:
    """Raise ConfigError when one of ``rows`` (in order) would be written over the clip of another; ``removed`` will be gone."""
    mine = rows_of(table, rows, ["clip_id", "clip_name"])
    paths = _paths(output, mine)
    owned = rows_where(output, "output_path", paths, [])
    if removed is not None:
        owned = owned.filter(_pc.invert(_pc.is_in(owned["clip_id"], removed)))
    if not len(owned):
        return
    places = _pc.index_in(owned["output_path"], paths)
    clash = _pc.index(_pc.not_equal(taken(mine["clip_id"], places), owned["clip_id"]), True).as_py()
    if clash >= 0:
        row = places[clash].as_py()
        raise ConfigError(
            f"row {rows[row] + 1} ({mine['clip_id'][row].as_py()}) would be written over {paths[row].as_py()}, which is clip "
            f"{owned['clip_id'][clash].as_py()!r} of an earlier run; give the row another name, or set prune=true if that clip "
            "left the manifest"
        )


def reopen(table: pa.Table, todo: Todo, records: Records) -> None:
    """Take the rows of clips that failed, or whose file is gone, out of the table. Others stay until the clips are made."""
    ids = rows_of(table, todo.rows, ["clip_id"])["clip_id"]
    gone = pa.array(np.isin(todo.rows, todo.missing, assume_unique=True))
    records.reopen(ids.filter(_pc.or_(gone, _pc.fill_null(_pc.not_equal(records.codes(ids), ""), False))))


def rows_of(table: pa.Table, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """These rows (int64 (n,), in order) of those of the columns that ``table`` has: ``take`` ends at 2 GB of text."""
    mask = np.zeros(len(table), np.bool_)
    mask[rows] = True
    return table.select([name for name in columns if name in table.column_names]).filter(pa.array(mask))


def _paths(output: str, rows: pa.Table) -> pa.ChunkedArray:
    """Where the clips will be, relative to the output."""
    before, after = str(relative(clip_uri(output, "\0"), output)).split("\0")
    names = rows["clip_name" if "clip_name" in rows.column_names else "clip_id"]
    return _pc.binary_join_element_wise(before, names, after, "")


def _clips(ids: pa.ChunkedArray, rows: np.ndarray) -> str:
    """Some of the ids, and how many there are."""
    named = ", ".join(ids[int(row)].as_py() for row in rows[:_NAMED])
    return f"{len(rows)} clip{'s' * (len(rows) != 1)} ({named}{', ...' if len(rows) > _NAMED else ''})"
