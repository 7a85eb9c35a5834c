"""What the driver holds of each file of the table that it reads at first."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute

__all__ = ["Held", "with_common_clips"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


class Held:
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


def with_common_clips(files: dict[str, Held]) -> list[str]:
    """The files that hold a clip which has another row, in the same or another of them."""
    if not files:
        return []
    ids = pa.chunked_array([chunk for rows in files.values() for chunk in rows.clip_ids.chunks], pa.string())
    if _pc.count_distinct(ids).as_py() == len(ids):
        return []
    counts = ids.value_counts()
    common = counts.filter(_pc.greater(_pc.struct_field(counts, "counts"), 1)).field("values")
    return [uri for uri, rows in files.items() if _pc.any(_pc.is_in(rows.clip_ids, common)).as_py()]
