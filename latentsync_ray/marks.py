"""What people who looked at a run's clips want of the next one: a CSV with the columns clip_id, mark and seed.

``redo`` makes a clip again with another seed, ``keep`` leaves it as it is, ``drop`` removes it. Knows the rows of a manifest,
and nothing of what was made of them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray import redact
from latentsync_ray.csv_table import read_csv
from latentsync_ray.errors import ConfigError, InputNotFound
from latentsync_ray.storage import fetch

__all__ = ["MARKS", "Marks", "marked"]

MARKS = ("keep", "redo", "drop")
_COLUMNS = ("clip_id", "mark", "seed")
_DIGITS, _LARGEST = 19, str(2**63 - 1)
"""Of a seed."""
_NARROW = (pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32())
"""Types of a column of seeds that may be too small for others."""

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Rows of a manifest, by their numbers from 0, int64 (n,) in order, with each mark."""

    keep: np.ndarray = field(default_factory=_none)
    redo: np.ndarray = field(default_factory=_none)
    drop: np.ndarray = field(default_factory=_none)


def marked(table: pa.Table, uri: str | None) -> tuple[pa.Table, Marks]:
    """The manifest with the seeds that the file ``uri`` gives to clips marked ``redo``, and which rows are marked.

    Without a file the manifest stays as it is. Raises ConfigError for what cannot be read, and names the line: clips that are
    not in the manifest or twice in the file, other marks, and ``redo`` without a seed from 0 to 2**63 - 1.
    """
    if uri is None:
        return table, Marks()
    given = _read(uri)
    row_marks = _pc.index_in(table["clip_id"], given["clip_id"])  # which line of the file, row by row of the manifest
    met = np.zeros(len(given), np.bool_)
    met[row_marks.drop_null().to_numpy()] = True
    if not met.all():
        row = int(np.argmin(met))
        clip = given["clip_id"][row].as_py()
        _refuse(uri, row, f"the manifest has no clip {clip!r}; remove the line (prune removes clips that left the manifest)")
    rows = np.flatnonzero(np.asarray(row_marks.is_valid()))
    lines = row_marks.drop_null().to_numpy()
    marks = np.asarray(_pc.index_in(given["mark"], pa.array(MARKS)))[lines]
    redo = rows[marks == MARKS.index("redo")]
    if len(redo):
        seeds = _pc.if_else(_pc.equal(given["mark"], "redo"), given["seed"], None)
        table = _with_seeds(table, seeds.take(row_marks), uri)
    return table, Marks(keep=rows[marks == MARKS.index("keep")], redo=redo, drop=rows[marks == MARKS.index("drop")])


def _read(uri: str) -> pa.Table:
    """``clip_id``, ``mark`` and ``seed`` as text, checked."""
    shown = redact.shown(uri)
    try:
        given = read_csv(fetch(uri), shown, columns="clip_id and mark").combine_chunks()
    except (InputNotFound, OSError) as error:
        raise ConfigError(f"cannot read the marks: {error}") from error
    if missing := [name for name in _COLUMNS if given.column_names.count(name) != 1]:
        raise ConfigError(
            f"{shown} must have the column {missing[0]!r} once, and has {', '.join(given.column_names)}; "
            "the columns of marks are clip_id, mark and seed"
        )
    given = given.select(_COLUMNS)
    _first(_pc.is_null(given["clip_id"]), uri, "it names no clip; fill in its clip_id, or remove the line")
    unknown = _pc.invert(_pc.is_in(given["mark"], pa.array(MARKS)))
    _first(unknown, uri, "the mark of clip {clip_id!r} is {mark!r}; use keep, redo or drop, or remove the line", given)
    seeds = _pc.utf8_lpad(_pc.fill_null(given["seed"], ""), _DIGITS, "0")
    usable = _pc.and_(_pc.match_substring_regex(given["seed"], rf"^\d{{1,{_DIGITS}}}$"), _pc.less_equal(seeds, _LARGEST))
    bad = _pc.and_(_pc.equal(given["mark"], "redo"), _pc.invert(_pc.fill_null(usable, False)))
    _first(bad, uri, "redo of clip {clip_id!r} has the seed {seed!r}; use a whole number from 0 to 2**63 - 1", given)
    if _pc.count_distinct(given["clip_id"]).as_py() != len(given):
        codes = given["clip_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        again = np.ones(len(codes), np.bool_)
        again[np.unique(codes, return_index=True)[1]] = False
        _first(pa.array(again), uri, "clip {clip_id!r} is marked twice; leave one of its lines", given)
    return given


def _first(wrong: Any, uri: str, problem: str, given: pa.Table | None = None) -> None:
    """Refuse the first row that is ``wrong``."""
    row = _pc.index(wrong, True).as_py()
    if row >= 0:
        _refuse(uri, row, problem.format_map({name: given[name][row].as_py() or "" for name in _COLUMNS} if given else {}))


def _refuse(uri: str, row: int, problem: str) -> NoReturn:
    raise ConfigError(f"{redact.shown(uri)}, line {_line(fetch(uri), row)}: {problem}")


def _line(path: Path, row: int) -> int:
    """On which line of the file a row, from 0, ends; empty lines are none."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        numbers = (lines.line_num for values in lines if values)
        return next((number for place, number in enumerate(numbers) if place == row + 1), row + 2)


def _with_seeds(table: pa.Table, seeds: pa.ChunkedArray, uri: str) -> pa.Table:
    """``table`` with these seeds (text) where they are not null, in a column of the type that it has."""
    if "seed" not in table.column_names:
        return table.append_column("seed", seeds.cast(pa.int64()))
    own = table["seed"]
    if own.type in _NARROW:
        own = own.cast(pa.int64())
    try:
        mine = seeds.cast(pa.int64()).cast(own.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"the seeds in {redact.shown(uri)} do not go into the manifest's column seed, which holds {own.type}: {error}; "
            "give that column whole numbers"
        ) from error
    return table.set_column(table.column_names.index("seed"), "seed", _pc.if_else(mine.is_valid(), mine, own))
