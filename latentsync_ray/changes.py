"""What is not as it was when a clip was made: its inputs, the settings of its row, or its file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray import redact, storage
from latentsync_ray.errors import ClipError
from latentsync_ray.layout import join
from latentsync_ray.manifest import pair_of
from latentsync_ray.recipe import ROW_SETTINGS, own_settings
from latentsync_ray.records import among, in_batches

__all__ = ["changed_rows", "missing_rows", "reset_rows", "settings_of"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_LOOKERS, _READERS = 32, 4
"""Files asked about together, and inputs read together."""
_AT_ONCE = 50_000
"""Inputs and rows held as Python objects."""
_WORTH_LISTING = 500
"""Files of one folder from which on it is listed: object stores give a thousand names in one answer."""
_MOST_KEPT = 5_000_000
"""Listed files whose versions are kept: about 100 bytes each."""
_LISTABLE, _WEB = r"^[^?]*://[^?]*$", r"^(https?://|data:)"
_OF_SETTINGS = (*ROW_SETTINGS, "language")
_UNTOLD = ""
"""What stands for a version when storage gives no answer."""


def changed_rows(
    table: pa.Table, rows: np.ndarray, output: str, *, content: bool = False, phase: Callable[[str], None] = lambda _: None
) -> np.ndarray:
    """Those of ``rows`` (int64 (n,), of a manifest) whose clip was made of other inputs or settings than the row has now.

    Storage is asked for each input's version, or with ``content`` each input is read; ``phase`` hears how far that is. What an
    old record does not say, or storage does not, counts as unchanged.
    """
    kind = "sha256" if content else "version"
    look = _digests if content else _Versions([table["video"], table["audio"]])
    told = table.select([name for name in ("clip_id", "video", "audio", *_OF_SETTINGS) if name in table.column_names])
    changed, seen = [rows[:0]], 0
    for there, mine, made in _with_records(
        told, rows, output, ["settings", "video", "audio", f"video_{kind}", f"audio_{kind}"]
    ):
        where = f", of clips {seen + 1} to {seen + len(there)} of {len(rows)}" if len(there) < len(rows) else ""
        changed.append(there[_changed(mine, made, look, kind, partial(_told, phase, where))])
        seen += len(there)
    return np.unique(np.concatenate(changed))


def reset_rows(table: pa.Table, rows: np.ndarray, output: str) -> np.ndarray:
    """Those of ``rows`` (int64 (n,), of a manifest) whose clip has a record, and was not, or may not have been, made with the
    settings that the row has now."""
    told = table.select([name for name in ("clip_id", *_OF_SETTINGS) if name in table.column_names])
    reset = [rows[:0]]
    for there, mine, made in _with_records(told, rows, output, ["settings"]):
        reset.append(there[np.asarray(_pc.fill_null(_pc.not_equal(settings_of(mine), made["settings"]), True))])
    return np.unique(np.concatenate(reset))


def _told(phase: Callable[[str], None], where: str, text: str) -> None:
    phase(text + where)


def missing_rows(
    table: pa.Table, rows: np.ndarray, output: str, *, phase: Callable[[str], None] = lambda _: None
) -> np.ndarray:
    """Those of ``rows`` (int64 (n,), of a manifest) whose clip has a record, and no file any more at its place in the output.

    Where storage does not answer, a file counts as there.
    """
    missing, look = [rows[:0]], _Versions()
    for there, _, made in _with_records(table.select(["clip_id"]), rows, output, ["output_path"]):
        known = made["output_path"].is_valid()
        uris = _pc.binary_join_element_wise(join(output, ""), made["output_path"].filter(known), "")
        missing.append(there[np.asarray(known)][np.asarray(_now(uris, look, phase, "clips are there").is_null())])
    return np.unique(np.concatenate(missing))


def _with_records(
    table: pa.Table, rows: np.ndarray, output: str, columns: list[str]
) -> Iterator[tuple[np.ndarray, pa.Table, pa.Table]]:
    """Batch by batch: which of ``rows`` have a record, their rows of the manifest, and these columns of the records."""
    wanted = np.zeros(len(table), np.bool_)
    wanted[rows] = True
    for made in in_batches(output, ["clip_id", *columns]):
        there = np.asarray(among(table["clip_id"], made["clip_id"])) & wanted
        mine = table.filter(pa.array(there))  # ``take`` ends at 2 GB of text
        yield np.flatnonzero(there), mine, made.take(_pc.index_in(mine["clip_id"], made["clip_id"]))


def _changed(mine: pa.Table, made: pa.Table, look: _Look, kind: str, phase: Callable[[str], None]) -> np.ndarray:
    """Which rows of a manifest are not what their records say, row by row."""
    changed = _differs(settings_of(mine), made["settings"])
    known = {name: made[f"{name}_{kind}"].is_valid() for name in ("video", "audio")}
    uris = [mine[name].filter(known[name]) for name in ("video", "audio")]
    there = pa.chunked_array([chunk for column in uris for chunk in column.chunks], pa.string()).unique()
    now = _now(there, look, phase, "inputs have changed")
    now = _pc.if_else(_pc.equal(now, _UNTOLD), None, now)
    for name in ("video", "audio"):
        changed = _pc.or_(changed, _moved(mine[name], made[name], made[f"{name}_{kind}"]))
        changed = _pc.or_(changed, _differs(now.take(_pc.index_in(mine[name], there)), made[f"{name}_{kind}"]))
    return np.asarray(changed)


def _moved(now: Any, then: Any, versions: Any) -> Any:
    """Where a version is a size and nothing else: whether the address is another. Signatures do not count."""
    vague = np.asarray(_pc.fill_null(_pc.ends_with(versions, "-"), False))
    moved = np.zeros(len(vague), np.bool_)
    places = np.flatnonzero(vague)
    for start in range(0, len(places), _AT_ONCE):
        some = places[start : start + _AT_ONCE]
        shown = pa.chunked_array([[redact.shown(uri) for uri in now.take(some).to_pylist()]], pa.string())
        bare = (_pc.replace_substring_regex(each, r"[?&]\*\*\*", "") for each in (shown, then.take(some)))
        moved[some] = np.asarray(_differs(*bare))
    return pa.array(moved)


def settings_of(table: pa.Table) -> pa.Array:
    """``own_settings`` of each row of a manifest."""
    names = [name for name in _OF_SETTINGS if name in table.column_names]
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


def _now(uris: Any, look: _Look, phase: Callable[[str], None], what: str) -> pa.Array:
    """What ``look`` says of each."""

    def answers() -> Iterator[str | None]:
        for start in range(0, len(uris), _AT_ONCE):
            phase(f"looking whether {what}: {start} of {len(uris)}")
            yield from look(uris.slice(start, _AT_ONCE).to_pylist())

    if isinstance(look, _Versions):
        look.list_folders(uris)
    return pa.array(answers(), pa.string())


class _Versions:
    """What storage says of files: null of one that is not there, ``_UNTOLD`` when it gives no answer.

    Of a large folder by one listing, of which those in ``wanted`` are kept, or all.
    """

    def __init__(self, wanted: list[pa.ChunkedArray] | None = None) -> None:
        self._wanted = wanted
        self._kept: dict[str, pa.Table] = {}
        """Folder -> ``uri`` and ``version``."""

    def list_folders(self, uris: Any) -> None:
        """List the folders in which many of ``uris`` are."""
        of_web = _pc.match_substring_regex(uris, _WEB)
        listable = uris.filter(_pc.and_not(_pc.match_substring_regex(uris, _LISTABLE), of_web))
        counts = _pc.value_counts(_pc.replace_substring_regex(listable, r"/[^/]*$", ""))
        large = counts.filter(_pc.greater_equal(_pc.struct_field(counts, "counts"), _WORTH_LISTING)).field("values")
        with ThreadPoolExecutor(_READERS) as pool:
            for folder, listed in pool.map(self._listed, [each for each in large.to_pylist() if each not in self._kept]):
                self._kept[folder] = listed
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def __call__(self, uris: list[str]) -> Iterable[str | None]:
        known: dict[str, str | None] = {uri: _version(uri) for uri in uris if uri.startswith("/")}
        asked = pa.array([uri for uri in uris if uri not in known], pa.string())
        for folder in {uri.rpartition("/")[0] for uri in uris} & set(self._kept):
            listed = self._kept[folder]
            listed = listed.filter(_pc.is_in(listed["uri"], asked))
            known |= dict(zip(listed["uri"].to_pylist(), listed["version"].to_pylist(), strict=True))
        single = [uri for uri in uris if uri not in known]
        with ThreadPoolExecutor(_LOOKERS) as pool:
            known |= dict(zip(single, pool.map(_version, single), strict=True))
        return map(known.get, uris)

    def _listed(self, folder: str) -> tuple[str, pa.Table]:
        try:
            found = storage.versions_in(folder)
        except ClipError:  # some may read files, and not list them
            found = {}
        listed = pa.table({"uri": pa.array(found, pa.string()), "version": pa.array(found.values(), pa.string())})
        if self._wanted is not None:
            wanted = [np.asarray(among(listed["uri"], column)) for column in self._wanted]
            listed = listed.filter(pa.array(np.logical_or.reduce(wanted)))
        return folder, listed


_Look: TypeAlias = _Versions | Callable[[list[str]], Iterable[str | None]]


def _version(uri: str) -> str | None:
    try:
        return storage.version(uri)
    except ClipError:  # storage says nothing today: no reason to make a clip again
        return _UNTOLD


def _digests(uris: list[str]) -> Iterator[str | None]:
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(_digest, uris)


def _digest(uri: str) -> str | None:
    try:
        with storage.fetch(uri).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except ClipError:
        return None
