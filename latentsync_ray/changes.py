"""What is not as it was when a clip was made: its inputs, or the settings of its row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray import storage
from latentsync_ray.config import ROW_SETTINGS, own_settings
from latentsync_ray.errors import ClipError
from latentsync_ray.manifest import pair_of
from latentsync_ray.records import in_batches

__all__ = ["changed_rows", "settings_of"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_LOOKERS, _READERS = 32, 4
"""Inputs asked about together, and inputs read together."""
_AT_ONCE = 50_000
"""Inputs and rows held as Python objects."""
_WORTH_LISTING = 500
"""Inputs in one folder from which on it is listed: object stores give a thousand names in one answer."""


def changed_rows(
    table: pa.Table, rows: np.ndarray, output: str, *, content: bool = False, phase: Callable[[str], None] = lambda _: None
) -> np.ndarray:
    """Those of ``rows`` (int64 (n,), of a manifest) whose clip was made of other inputs or settings than the row has now.

    Storage is asked for each input's version, or with ``content`` each input is read; ``phase`` hears how far that is. What an
    old record does not say, or storage does not, counts as unchanged.
    """
    kind = "sha256" if content else "version"
    wanted = np.zeros(len(table), np.bool_)
    wanted[rows] = True
    changed, seen = [rows[:0]], 0
    for made in in_batches(output, ["clip_id", "settings", f"video_{kind}", f"audio_{kind}"]):
        there = np.flatnonzero(np.asarray(_pc.is_in(table["clip_id"], made["clip_id"])) & wanted)
        mine = table.take(there)
        made = made.take(_pc.index_in(mine["clip_id"], made["clip_id"]))
        where = f", of clips {seen + 1} to {seen + len(there)} of {len(rows)}" if len(there) < len(rows) else ""
        tell = partial(_told, phase, where)
        changed.append(there[_changed(mine, made, _digests if content else _versions, kind, tell)])
        seen += len(there)
    return np.unique(np.concatenate(changed))


def _told(phase: Callable[[str], None], where: str, text: str) -> None:
    phase(text + where)


def _changed(
    mine: pa.Table,
    made: pa.Table,
    look: Callable[[list[str]], Iterable[str | None]],
    kind: str,
    phase: Callable[[str], None],
) -> np.ndarray:
    """Which rows of a manifest are not what their records say, row by row."""
    changed = _differs(settings_of(mine), made["settings"])
    known = {name: made[f"{name}_{kind}"].is_valid() for name in ("video", "audio")}
    uris = [mine[name].filter(known[name]) for name in ("video", "audio")]
    there = pa.chunked_array([chunk for column in uris for chunk in column.chunks], pa.string()).unique()
    now = _now(there, look, phase)
    for name in ("video", "audio"):
        changed = _pc.or_(changed, _differs(now.take(_pc.index_in(mine[name], there)), made[f"{name}_{kind}"]))
    return np.asarray(changed)


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


def _now(uris: pa.Array, look: Callable[[list[str]], Iterable[str | None]], phase: Callable[[str], None]) -> pa.Array:
    """What ``look`` says of each."""

    def answers() -> Iterator[str | None]:
        for start in range(0, len(uris), _AT_ONCE):
            phase(f"looking whether inputs have changed: {start} of {len(uris)}")
            yield from look(uris.slice(start, _AT_ONCE).to_pylist())

    return pa.array(answers(), pa.string())


def _versions(uris: list[str]) -> Iterable[str | None]:
    """What storage says of each; of large folders by one listing."""
    folders = Counter(uri.rpartition("/")[0] for uri in uris if _listable(uri))
    known: dict[str, str | None] = {uri: storage.version(uri) for uri in uris if uri.startswith("/")}
    with ThreadPoolExecutor(_LOOKERS) as pool:
        for listed in pool.map(_listed, [folder for folder, count in folders.items() if count >= _WORTH_LISTING]):
            known |= listed
        known |= dict(zip(single := [uri for uri in uris if uri not in known], pool.map(_version, single), strict=True))
    return map(known.get, uris)


def _listable(uri: str) -> bool:
    return "://" in uri and not uri.startswith(("http://", "https://", "data:")) and "?" not in uri


def _listed(folder: str) -> dict[str, str]:
    try:
        return storage.versions_in(folder)
    except ClipError:  # some may read files, and not list them
        return {}


def _version(uri: str) -> str | None:
    try:
        return storage.version(uri)
    except ClipError:  # storage says nothing today: no reason to make a clip again
        return None


def _digests(uris: list[str]) -> Iterator[str | None]:
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(_digest, uris)


def _digest(uri: str) -> str | None:
    try:
        with storage.fetch(uri).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except ClipError:
        return None
