"""What a run has to make: rows without a record, those to be tried again, and those whose inputs or settings have changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray import storage
from latentsync_ray.changes import changed_rows, missing_rows
from latentsync_ray.config import Job
from latentsync_ray.errors import ConfigError, InputNotFound
from latentsync_ray.layout import clip_uri, join, prune_uri, relative
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

    @property
    def open_rows(self) -> np.ndarray:
        """int64 (n,): to be made by this run or another."""
        return np.union1d(self.rows, self.over_limit)

    def others(self, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Of all ``ids`` of the manifest, those that stay as they are."""
        stay = np.ones(len(ids), np.bool_)
        stay[self.rows] = stay[self.over_limit] = False
        return ids.filter(pa.array(stay))


def find_todo(job: Job, table: pa.Table, records: Records, phase: Callable[[str], None] = lambda _: None) -> Todo:
    """What ``job`` has to do for the manifest ``table``. Changes nothing.

    Raises ConfigError for changed rows if the job wants to fail at them.
    """
    ids = table["clip_id"]
    rows = records.left(ids, retry=job.retry)
    changed = missing = rows[:0]
    if "missing" in job.retry and len(rows) < len(table):
        made = np.setdiff1d(np.arange(len(table)), rows, assume_unique=True)
        missing = missing_rows(table, made, job.output, phase=phase)
        rows = np.union1d(rows, missing)
    if job.on_change != "keep" and len(rows) < len(table):
        made = np.setdiff1d(np.arange(len(table)), rows, assume_unique=True)
        changed = changed_rows(table, made, job.output, content=job.content_hash, phase=phase)
        if len(changed) and job.on_change == "fail":
            raise ConfigError(
                f"the inputs or settings of {_clips(ids, changed)} changed since they were made, and on_change is fail; "
                "on_change=redo makes them again, on_change=keep leaves them"
            )
        rows = np.union1d(rows, changed)
    for row in changed[:_LOGGED].tolist():
        log.debug("clip %s has changed", ids[row].as_py())
    most = job.limit or len(rows)
    changed, missing = (np.intersect1d(some, rows[:most]) for some in (changed, missing))
    return Todo(rows=rows[:most], over_limit=rows[most:], changed=changed, missing=missing, removed=records.removed(ids))


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
