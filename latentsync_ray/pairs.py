"""The pairs of a run: rows of an Arrow table, which become objects a few at a time. Ten million objects would take 10 GB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from latentsync_ray.consent import consented, refusal
from latentsync_ray.manifest import OWN_COLUMNS, pair_of
from latentsync_ray.types import Pair

__all__ = ["Open", "Pairs", "PassBroken"]

_NUMBER = "row_number"
"""Column with the row's number in the manifest, from 1: errors name it."""
_REFUSED = "row_refused"
"""Column that is true where a row lacks the consent that the job requires."""
_FAILED = ("error_code", "error")
_AT_ONCE = 1000


class PassBroken(Exception):
    """A pass over pairs could not go on: clips that it had not come to are not to blame."""


class Pairs:
    """Pairs in their order. ``table`` has columns of a manifest; a row with an unusable value gives a pair that failed."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @classmethod
    def of_manifest(cls, table: pa.Table, rows: np.ndarray, *, consent: bool = False) -> Pairs:
        """Those in ``rows`` of ``read_manifest``'s table: numbers from 0 in ascending order.

        Where ``consent`` is required, rows without one give pairs that failed.
        """
        wanted = np.zeros(len(table), np.bool_)
        wanted[rows] = True
        ours = table.select([name for name in OWN_COLUMNS if name in table.column_names])
        ours = ours.filter(pa.array(wanted)).append_column(_NUMBER, pa.array(rows + 1))
        return cls(ours.append_column(_REFUSED, pa.array(~consented(ours))) if consent else ours)

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Pairs:
        """These."""
        rows = [{name: getattr(pair, name) for name in (*OWN_COLUMNS, *_FAILED)} for pair in pairs]
        return cls(pa.Table.from_pylist(rows) if rows else pa.table({"clip_id": pa.array([], pa.string())}))

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Pair]:
        for block in self.blocks():
            yield from map(self.pair, block.to_pylist())

    def blocks(self, size: int = _AT_ONCE) -> Iterator[pa.Table]:
        """The rows as tables of at most ``size``; ``pair`` reads their rows."""
        for first in range(0, len(self), size):
            yield self._table.slice(first, size)

    @staticmethod
    def pair(row: Mapping[str, Any]) -> Pair:
        """The pair in a row."""
        if row.get("error_code"):
            return Pair.from_row(row)
        where = f"row {row[_NUMBER]}: " if _NUMBER in row else ""
        pair = pair_of(row, where)
        return Pair.of_failed(pair, refusal(where)) if row.get(_REFUSED) else pair

    def only(self, open_ones: Open) -> Pairs:
        """Those that are still open."""
        return Pairs(self._table.filter(pa.array(open_ones.mask)))

    def ids(self) -> Iterator[str]:
        """Their clip ids."""
        for chunk in self._table["clip_id"].iterchunks():
            for first in range(0, len(chunk), _AT_ONCE):
                yield from chunk.slice(first, _AT_ONCE).to_pylist()


class Open:
    """Which clips of a run are open and which are settled, in 17 bytes each.

    Ids are known by 64 bits of hash. Of ten million, two share one with a chance of 3 in a million; both are settled then when
    one is, and the next run finds that the other has no record.
    """

    def __init__(self, pairs: Pairs) -> None:
        hashes = np.fromiter(map(hash, pairs.ids()), np.int64, len(pairs))
        self._places = np.argsort(hashes)
        self._hashes = hashes[self._places]
        self._count = len(pairs)
        self.mask = np.ones(len(pairs), np.bool_)
        """bool (n,): in the order of the pairs."""

    def __len__(self) -> int:
        return self._count

    def __contains__(self, clip_id: str) -> bool:
        return bool(self.mask[self._of(clip_id)].any())

    def settle(self, clip_id: str) -> None:
        """Close a clip; once is enough."""
        places = self._of(clip_id)
        self._count -= int(self.mask[places].sum())
        self.mask[places] = False

    def _of(self, clip_id: str) -> np.ndarray:
        first, stop = (np.searchsorted(self._hashes, hash(clip_id), side) for side in ("left", "right"))
        return self._places[first:stop]
