"""What a run has to make: rows without a record, those to be tried again, and those whose inputs or settings have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray import storage
from latentsync_ray.changes import changed_rows
from latentsync_ray.config import Job
from latentsync_ray.errors import ConfigError
from latentsync_ray.layout import clip_uri, join, relative
from latentsync_ray.records import Records, look_up, rows_where

__all__ = ["Todo", "check_places", "check_prune", "find_todo", "prune", "take_up"]

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
    beyond: np.ndarray
    """int64 (n,): left to another run by the job's ``limit``."""
    changed: np.ndarray
    """int64 (n,): those of ``rows`` that were finished before, with other inputs or settings."""
    removed: pa.ChunkedArray
    """Ids of clips that have a row in the table and none in the manifest."""

    def others(self, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Of all ``ids`` of the manifest, those that stay as they are."""
        stay = np.ones(len(ids), np.bool_)
        stay[self.rows] = stay[self.beyond] = False
        return ids.filter(pa.array(stay))


def find_todo(job: Job, table: pa.Table, records: Records, phase: Callable[[str], None] = lambda _: None) -> Todo:
    """What ``job`` has to do for the manifest ``table``. Changes nothing.

    Raises ConfigError for changed rows if the job wants to fail at them.
    """
    ids = table["clip_id"]
    rows = records.left(ids, retry=job.retry)
    changed = rows[:0]
    if job.on_change != "keep" and len(rows) < len(table):
        made = np.setdiff1d(np.arange(len(table)), rows, assume_unique=True)
        changed = changed_rows(table, made, job.output, content=job.content_hash, phase=phase)
        if len(changed) and job.on_change == "fail":
            raise ConfigError(
                f"the inputs or settings of {_clips(ids.take(changed))} changed since they were made, and on_change is fail; "
                "on_change=redo makes them again, on_change=keep leaves them"
            )
        rows = np.union1d(rows, changed)
    for row in changed[:_LOGGED].tolist():
        log.debug("clip %s has changed", ids[row].as_py())
    most = job.limit or len(rows)
    mine = np.intersect1d(changed, rows[:most])
    return Todo(rows=rows[:most], beyond=rows[most:], changed=mine, removed=records.removed(ids))


def check_prune(output: str, records: Records, clip_ids: pa.ChunkedArray) -> None:
    """Raise ConfigError when these clips, which are to be removed, are most of the table: a manifest may be cut short."""
    if 2 * len(clip_ids) > len(records) and len(records) > 1:
        raise ConfigError(
            f"prune would remove {len(clip_ids)} of the {len(records)} clips in {output}, which the manifest does not have; "
            "if the manifest is whole, begin a new output, or remove clips by hand"
        )


def prune(output: str, records: Records, clip_ids: pa.ChunkedArray) -> None:
    """Remove these clips, files first: a row that is left is found again."""
    paths = look_up(output, clip_ids, ["output_path"])["output_path"].drop_null()
    storage.delete(join(output, path) for path in paths.to_pylist())
    records.reopen(clip_ids)


def check_places(output: str, table: pa.Table, rows: np.ndarray, removed: pa.ChunkedArray | None = None) -> None:
    """Raise ConfigError when one of ``rows`` would be written over the clip of another; ``removed`` will be gone by then."""
    mine = table.take(rows)
    paths = _paths(output, mine)
    owned = rows_where(output, "output_path", paths, [])
    if removed is not None:
        owned = owned.filter(_pc.invert(_pc.is_in(owned["clip_id"], removed)))
    owners = owned["clip_id"].take(_pc.index_in(paths, owned["output_path"]))
    if (row := _pc.index(_pc.fill_null(_pc.not_equal(owners, mine["clip_id"]), False), True).as_py()) >= 0:
        raise ConfigError(
            f"row {rows[row] + 1} ({mine['clip_id'][row].as_py()}) would be written over {paths[row].as_py()}, which is clip "
            f"{owners[row].as_py()!r} of an earlier run; give the row another name, or set prune=true if that clip left the "
            "manifest"
        )


def take_up(output: str, table: pa.Table, rows: np.ndarray, records: Records) -> dict[str, str | None]:
    """Take the records of failed clips among ``rows`` out of the table.

    Finished ones stay, with their records, until new ones are there. Of these: id -> the path of the clip in the output, None
    when it lies elsewhere.
    """
    mine = table.take(rows)
    finished = np.asarray(_pc.fill_null(_pc.equal(records.codes(mine["clip_id"]), ""), False))
    records.reopen(mine["clip_id"].filter(pa.array(~finished)))
    mine = mine.filter(pa.array(finished))
    former = look_up(output, mine["clip_id"], ["output_path"])["output_path"]
    return dict(zip(mine["clip_id"].to_pylist(), former.to_pylist(), strict=True))


def _paths(output: str, rows: pa.Table) -> pa.ChunkedArray:
    """Where the clips will be, relative to the output."""
    before, after = str(relative(clip_uri(output, "\0"), output)).split("\0")
    names = rows["clip_name" if "clip_name" in rows.column_names else "clip_id"]
    return _pc.binary_join_element_wise(before, names, after, "")


def _clips(ids: pa.ChunkedArray) -> str:
    """Some of the ids, and how many there are."""
    named = ", ".join(ids[:_NAMED].to_pylist())
    return f"{len(ids)} clip{'s' * (len(ids) != 1)} ({named}{', ...' if len(ids) > _NAMED else ''})"
