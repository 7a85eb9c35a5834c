"""By which columns the files of the table are laid out in folders, as Hive does it: ``language=de``.

The columns are told by the folders and are not in the files: pandas and pyarrow refuse a column that is in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from latentsync_ray.errors import ConfigError
from latentsync_ray.layout import partition
from latentsync_ray.records.schema import RECORD_SCHEMA

__all__ = ["MOST_FOLDERS", "check_partition", "check_values", "split"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

MOST_FOLDERS = 1000
"""Each has files of its own, and a reader opens them all."""
_LONGEST = 255
"""Characters of a folder's name, which are bytes, as all others are percent-encoded."""
_OURS = (
    *("language", "status", "error_code", "loop_mode", "face_choice", "detector", "model", "checkpoint", "precision", "card"),
    *("recipe", "version"),
)
"""Columns of the record with few values."""


def check_partition(names: Sequence[str], extra: pa.Table | None) -> None:
    """Raise ConfigError unless the table can be laid out by these columns, of ours or of ``extra``, which is carried along."""
    carried = {} if extra is None else {name: extra[name] for name in extra.column_names if name != "clip_id"}
    texts = [name for name, column in carried.items() if _is_text(column.type)]
    for name in names:
        if name in _OURS:
            continue
        if name not in carried:
            why = "has a value of its own for each clip or is no text" if name in RECORD_SCHEMA.names else "is no such column"
            raise ConfigError(f"partition_by: {name!r} {why}; use {', '.join([*_OURS, *texts])}")
        if name not in texts:
            raise ConfigError(f"partition_by: {name!r} holds {carried[name].type}; only columns of text make folders")
        if (count := _pc.count_distinct(carried[name]).as_py()) > MOST_FOLDERS:
            raise ConfigError(f"partition_by: {name!r} has {count} values, each of which gets a folder; at most {MOST_FOLDERS}")
        check_values(name, carried[name])


def check_values(name: str, column: pa.Array | pa.ChunkedArray) -> None:
    """Raise ConfigError when the folder of one of these texts would have a name that disks do not take."""
    for value in column.unique().to_pylist():
        if len(partition({name: value})) > _LONGEST:
            raise ConfigError(
                f"partition_by: {name!r} has the value {value[:40] + '...'!r}, whose folder would have a name of more than "
                f"{_LONGEST} characters; partition by another column, or shorten the text"
            )


def split(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Folder -> the rows that lie in it, all their columns included. Empty text lies with what is null."""
    if not names:
        yield "", table
        return
    for name in names:
        column = table[name].cast(pa.string()) if name in table.column_names else pa.nulls(len(table), pa.string())
        column = _pc.if_else(_pc.equal(column, ""), None, column)
        table = table.drop_columns(name) if name in table.column_names else table
        table = table.append_column(name, column)
    for values in table.select(list(names)).group_by(list(names)).aggregate([]).to_pylist():
        mine = None
        for name, value in values.items():
            here = _pc.is_null(table[name]) if value is None else _pc.fill_null(_pc.equal(table[name], value), False)
            mine = here if mine is None else _pc.and_(mine, here)
        yield partition(values), table.filter(mine)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)
