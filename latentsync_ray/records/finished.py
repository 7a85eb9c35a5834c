"""Which clips have a row, and with which error code: columns of Arrow, and no Python object per clip.

Ten million clips take 0.4 GB here; a dictionary of them would take ten times as much.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute

__all__ = ["Finished"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_CODES = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema([("clip_id", pa.string()), ("code", _CODES)])
_MOST_CHUNKS = 256
"""Small additions are merged when there are more of them than this."""


class Finished:
    """``clip_id`` and error code of every row of the table; the code is empty text for a dubbed clip."""

    def __init__(self) -> None:
        self._table = _SCHEMA.empty_table()

    def __len__(self) -> int:
        return len(self._table)

    def add(self, clip_ids: pa.ChunkedArray, codes: pa.ChunkedArray) -> None:
        """Note rows; ``codes`` are null where the clip is dubbed. None of the clips may have a row yet."""
        rows = pa.table({"clip_id": clip_ids, "code": _pc.fill_null(codes, "").dictionary_encode()}).cast(_SCHEMA)
        self._table = pa.concat_tables([self._table, rows])
        if self._table.column(0).num_chunks > _MOST_CHUNKS:
            self._table = self._table.unify_dictionaries().combine_chunks()

    def drop(self, clip_ids: pa.ChunkedArray) -> None:
        """Forget the rows of these clips."""
        if len(clip_ids):
            self._table = self._table.filter(_pc.invert(_pc.is_in(self._table["clip_id"], clip_ids)))

    def codes(self, clip_ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """The code of each of ``clip_ids``, null where there is no row."""
        rows = self._table
        if 2 * len(clip_ids) < len(rows):  # the look-up table is made of the right side: let it be small
            rows = rows.filter(_pc.is_in(rows["clip_id"], clip_ids))
        places = _pc.index_in(clip_ids, rows["clip_id"])
        return rows["code"].cast(pa.string()).take(places)

    def failed(self) -> pa.ChunkedArray:
        """The ids of the clips that failed."""
        return self._table.filter(_pc.not_equal(self._table["code"].cast(pa.string()), ""))["clip_id"]

    def without(self, clip_ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """The ids that are none of ``clip_ids``."""
        return self._table["clip_id"].filter(_pc.invert(_pc.is_in(self._table["clip_id"], clip_ids)))

    def with_code(self, codes: Iterable[str]) -> pa.ChunkedArray:
        """The ids of the clips that failed with one of ``codes``."""
        wanted = _pc.is_in(self._table["code"].cast(pa.string()), pa.array(list(codes), pa.string()))
        return self._table.filter(wanted)["clip_id"]
