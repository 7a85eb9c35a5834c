"""Which clips are worst by each measure, and at which moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute

from latentsync_ray.gate import MEASURES

__all__ = ["RANKED", "Ranked", "Ranking", "rankings"]

_SYNC, _COARSE = "sync_score", "sync_correlation"
"""How well lips and sound go together, and what stands for it in a table that does not say it."""
_BY: dict[str, Literal["min", "max"]] = {**MEASURES, _COARSE: "min"}
_KEPT = ("clip_id", "language", "status", "frames", "fps")
RANKED = (*_BY, *(f"{name}_frame" for name in _BY))
"""Columns that are looked at, where a table has them."""

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A finished clip, and how it is by a measure."""

    clip_id: str
    language: str | None
    status: str
    value: float
    frame: int | None
    """Output frame, from 0, at which it is worst; None when the measure has no such."""
    seconds: float | None
    """The same as a time from the clip's beginning."""
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The worst clips by one measure."""

    measure: str
    bad: Literal["min", "max"]
    """Which end of the measure is bad."""
    clips: list[Ranked]
    """Worst first."""


def rankings(table: pa.Table, most: int) -> list[Ranking]:
    """Up to ``most`` clips by each measure that any clip of the table has. Columns may be missing."""
    finished = table.filter(_pc.field("status") != "failed")
    names = [name for name in _BY if name in finished.column_names]
    known = {name: finished.filter(_pc.is_finite(_pc.field(name))) for name in names}
    if _SYNC in known and len(known[_SYNC]):
        known.pop(_COARSE, None)
    return [Ranking(measure=name, bad=_BY[name], clips=_worst(rows, name, most)) for name, rows in known.items() if len(rows)]


def _worst(rows: pa.Table, measure: str, most: int) -> list[Ranked]:
    order = "ascending" if _BY[measure] == "min" else "descending"
    keys = [(measure, order), ("clip_id", "ascending")]
    frame = f"{measure}_frame"
    rows = rows.select([*_KEPT, measure, *([frame] if frame in rows.column_names else [])])
    first = rows.take(_pc.select_k_unstable(rows, k=min(most, len(rows)), sort_keys=keys))
    return [_ranked(row, row[measure], row.get(frame)) for row in first.sort_by(keys).to_pylist()]


def _ranked(row: dict[str, Any], value: float, frame: int | None) -> Ranked:
    seconds = frame / row["fps"] if frame is not None and row["fps"] else None
    kept = {name: row[name] for name in ("clip_id", "language", "status")}
    return Ranked(**kept, value=value, frame=frame, seconds=seconds, frames=row["frames"] or 0)
