"""What is not as it was when a clip was made: its inputs, or the settings of its row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray import storage
from latentsync_ray.config import ROW_SETTINGS, own_settings
from latentsync_ray.errors import ClipError
from latentsync_ray.manifest import pair_of
from latentsync_ray.records import look_up

__all__ = ["changed_rows", "settings_of"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_LOOKERS, _READERS = 32, 4
"""Inputs asked about together, and inputs read together."""
_AT_ONCE = 10_000
"""Inputs given to the threads at once, and rows held as Python objects."""


def changed_rows(
    table: pa.Table, rows: np.ndarray, output: str, *, content: bool = False, phase: Callable[[str], None] = lambda _: None
) -> np.ndarray:
    """Those of ``rows`` (int64 (n,), of a manifest) whose clip was made of other inputs or settings than the row has now.

    Storage is asked for each input's version, or with ``content`` each input is read; ``phase`` hears how far that is. What an
    old record does not say, or storage does not, counts as unchanged.
    """
    mine = table.take(rows)
    kind = "sha256" if content else "version"
    made = look_up(output, mine["clip_id"], ["settings", f"video_{kind}", f"audio_{kind}"])
    changed = _differs(settings_of(mine), made["settings"])
    known = {name: made[f"{name}_{kind}"].is_valid() for name in ("video", "audio")}
    uris = [mine[name].filter(known[name]) for name in ("video", "audio")]
    there = pa.chunked_array([chunk for column in uris for chunk in column.chunks], pa.string()).unique()
    now = _now(there, _digest if content else _version, _READERS if content else _LOOKERS, phase)
    for name in ("video", "audio"):
        changed = _pc.or_(changed, _differs(now.take(_pc.index_in(mine[name], there)), made[f"{name}_{kind}"]))
    return rows[np.asarray(changed)]


def settings_of(table: pa.Table) -> pa.Array:
    """``own_settings`` of each row of a manifest."""
    names = [name for name in (*ROW_SETTINGS, "language") if name in table.column_names]
    if not names:
        return pa.repeat(own_settings({}), len(table))
    keys = [_pc.fill_null(table[name].cast(pa.string()), "\0") for name in names]
    joined = _pc.binary_join_element_wise(*keys, "\1").combine_chunks().dictionary_encode()
    first = pa.table({"key": joined.indices, "row": np.arange(len(table))}).group_by("key").aggregate([("row", "min")])
    first = first.sort_by("key")["row_min"]
    hashes = []
    for start in range(0, len(first), _AT_ONCE):
        some = table.select(names).take(first.slice(start, _AT_ONCE))
        pairs = (pair_of({"clip_id": "-", "video": "-", "audio": "-", **row}) for row in some.to_pylist())
        hashes += map(own_settings, pairs)
    return pa.array(hashes, pa.string()).take(joined.indices)


def _differs(now: Any, then: Any) -> Any:
    """Whether both are known and not the same."""
    return _pc.fill_null(_pc.not_equal(now, then), False)


def _now(uris: pa.Array, look: Callable[[str], str | None], threads: int, phase: Callable[[str], None]) -> pa.Array:
    """What ``look`` says of each."""

    def answers() -> Iterator[str | None]:
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(uris), _AT_ONCE):
                phase(f"looking whether inputs have changed: {start} of {len(uris)}")
                yield from pool.map(look, uris.slice(start, _AT_ONCE).to_pylist())

    return pa.array(answers(), pa.string())


def _version(uri: str) -> str | None:
    try:
        return storage.version(uri)
    except ClipError:  # storage says nothing today: no reason to make a clip again
        return None


def _digest(uri: str) -> str | None:
    try:
        with storage.fetch(uri).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except ClipError:
        return None
