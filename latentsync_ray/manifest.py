"""Which pairs to dub: Parquet, CSV, JSON lines, or a folder of files with the same stem, as one Arrow table.

Mistakes that make the whole manifest doubtful (columns, clip ids) are ConfigErrors and stop the run before it starts; a wrong
value in one row is that clip's failure. Knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from latentsync_ray import redact
from latentsync_ray.arguments import given
from latentsync_ray.clip_names import clip_names, twins
from latentsync_ray.csv_table import read_csv
from latentsync_ray.errors import ConfigError, InputNotFound, InvalidPair
from latentsync_ray.layout import join
from latentsync_ray.naming import DEFAULT_TEMPLATE
from latentsync_ray.recipe import ROW_SETTINGS, row_settings
from latentsync_ray.storage import exists, fetch, is_remote, list_files
from latentsync_ray.types import UNUSABLE_ID, Pair

__all__ = ["OWN_COLUMNS", "extra_columns", "made_id", "pair_of", "read_manifest", "to_pair"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_TEXTS = ("language", "clip_name", "consent")
OWN_COLUMNS = ("clip_id", "video", "audio", *_TEXTS, *ROW_SETTINGS)
"""What a row of a manifest can say of its pair; all other columns are carried along."""
_VIDEO = {".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}
_AUDIO = {".aac", ".ac3", ".aif", ".aiff", ".eac3", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"}
_ROWS_AT_ONCE = 50_000
"""Rows held as Python objects."""
_ID_BYTES = 180
"""A clip id becomes a file name: 255 bytes at most on most disks, less what drafts add."""


def read_manifest(uri: str, template: str = DEFAULT_TEMPLATE) -> pa.Table:
    """The manifest: ``clip_id``, ``video`` and ``audio`` (text, absolute), settings where given, and whatever else it has.

    ``clip_name`` is there when the manifest has such a column, or ``template`` is not the usual one; see ``clip_names``.

    Relative paths are relative to the manifest's folder. Rows without a ``clip_id`` get one made from the video's stem and a
    hash of both URIs, less what changes when they are signed again; ids that are whole numbers become text. Raises ConfigError
    for what cannot be read, missing or repeated columns, and ids that are unusable or not unique.
    """
    table, folder = _read(uri)
    uri = redact.shown(uri)
    if repeated := sorted(name for name in set(table.column_names) if table.column_names.count(name) > 1):
        raise ConfigError(f"{uri} has the column {repeated[0]!r} more than once; remove or rename one")
    for name in ("video", "audio"):
        if name not in table.column_names:
            raise ConfigError(f"{uri} has no column {name!r}; it has {', '.join(table.column_names) or 'no columns'}")
        table = _replace(table, name, _absolute(_text(table, name, uri), folder))
    if len(table) == 0:
        raise ConfigError(f"{uri} has no rows")
    for name in _TEXTS:
        if name in table.column_names:
            table = _replace(table, name, _text(table, name, uri))
    for name in ROW_SETTINGS:
        if name in table.column_names and pa.types.is_nested(table[name].type):
            row, value = _first(table[name])
            raise ConfigError(
                f"{uri}: {name} of row {row} is {value!r} ({table[name].type}); the column must hold single values"
            )
    table = _replace(table, "clip_id", _clip_ids(table, uri))
    names = clip_names(table, template, uri)
    return table if names is None else _replace(table, "clip_name", names)


def extra_columns(table: pa.Table) -> pa.Table:
    """``clip_id`` and the columns that are none of ours, as they came: they are carried to the clip's record."""
    return table.select(["clip_id", *(name for name in table.column_names if name not in OWN_COLUMNS)])


def to_pair(table: pa.Table, index: int) -> Pair:
    """Row ``index`` of ``read_manifest``'s table; with an unusable value it has its ``error_code`` set (``invalid_pair``)."""
    row = {name: table[name][index].as_py() for name in OWN_COLUMNS if name in table.column_names}
    return pair_of(row, f"row {index + 1}: ")


def pair_of(row: Mapping[str, Any], where: str = "") -> Pair:
    """The pair in a row with a ``clip_id``; with an unusable value, told after ``where``, it has its ``error_code`` set."""
    said = {name: given(row.get(name)) for name in OWN_COLUMNS}
    said |= {name: None for name in ROW_SETTINGS if said[name] in ("nan", "NaN")}  # as CSV spells it
    texts = {name: said[name] for name in _TEXTS}
    pair = Pair(clip_id=str(said["clip_id"]), video=said["video"] or "", audio=said["audio"] or "", **texts)
    for name in ("video", "audio"):
        if not said[name]:
            return Pair.of_failed(pair, InvalidPair(f"{where}{name} is empty; it must be a path or URI"))
    try:
        return Pair.of(pair, **row_settings(said))
    except InvalidPair as error:
        return Pair.of_failed(pair, InvalidPair(f"{where}{error} (empty means: as the recipe says)"))


def made_id(video: str, audio: str) -> str:
    """The clip id of a row that has none."""
    return _made_ids(pa.table({"video": pa.array([video], pa.string()), "audio": pa.array([audio], pa.string())}))[0].as_py()


# Reading: each gives a table and the folder that relative paths start from.


def _read(uri: str) -> tuple[pa.Table, str]:
    kind, shown = PurePosixPath(uri).suffix.lower(), redact.shown(uri)
    base = uri if is_remote(uri) else str(Path(uri.removeprefix("file://")).expanduser().absolute())
    try:
        if kind == ".csv":
            return read_csv(fetch(uri), shown), _parent(base)
        if kind in (".jsonl", ".ndjson"):
            return _read_json_lines(fetch(uri)), _parent(base)
        if kind == ".parquet":
            return _read_parquet(uri, base)
        if not exists(base):
            raise InputNotFound(f"{shown} does not exist")
        files = [name for name in list_files(base) if not name.rsplit("/", 1)[-1].startswith((".", "_"))]
        if any(name.endswith(".parquet") for name in files):
            return _read_parquet(uri, base)
        return _pairs_of_same_stem(files, shown), base
    except InputNotFound as error:
        raise ConfigError(f"cannot read the manifest: {error}") from error
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ConfigError(f"cannot read the manifest {shown}: {error}") from error


def _read_parquet(uri: str, base: str) -> tuple[pa.Table, str]:
    try:
        return _parquet(uri), _parent(base)
    except InputNotFound:
        files = [name for name in list_files(base) if name.endswith(".parquet")]
        if not files:
            raise
    return pa.concat_tables([_parquet(name) for name in files], promote_options="permissive"), base


def _parquet(uri: str) -> pa.Table:
    with pq.ParquetFile(fetch(uri)) as file:  # not ``read_table``, which makes columns of folders named like a=b
        table = file.read()
    for name in table.column_names:
        if (kind := _plain(table.schema.field(name).type)) != table.schema.field(name).type:
            table = _replace(table, name, table[name].cast(kind))
    return table


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without what saves room: pandas writes categories, and Arrow can do little with views."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def _read_json_lines(path: Path) -> pa.Table:
    """Settings become text, so that one wrong value does not decide the type of the column."""
    tables = []
    with path.open(encoding="utf-8-sig") as file:
        numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        while rows := [_json_row(path, *each) for each in itertools.islice(numbered, _ROWS_AT_ONCE)]:
            tables.append(pa.table({name: _json_column(path, name, rows) for name in dict.fromkeys(itertools.chain(*rows))}))
    if not tables:
        raise ConfigError(f"{path} is empty; each line must be an object with video and audio")
    return pa.concat_tables(tables, promote_options="permissive")


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {number} is not valid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in thousands of others
        raise ConfigError(f"{path}, line {number} cannot be read: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{path}, line {number} must be an object with video and audio")
    if type(row.get("clip_id")) is int:
        row["clip_id"] = str(row["clip_id"])
    for name in ("clip_id", "video", "audio", *_TEXTS):
        if not isinstance(row.get(name), str | None):
            raise ConfigError(f"{path}, line {number}: {name} is {row[name]!r}; it must be text")
    return row


def _json_column(path: Path, name: str, rows: list[dict[str, Any]]) -> pa.Array:
    values = [row.get(name) for row in rows]
    try:
        if name in ROW_SETTINGS:
            return pa.array([None if value is None else str(value) for value in values], pa.string())
        return pa.array(values)
    except (UnicodeError, OverflowError) as error:
        why = f"{error}; whole numbers have 64 bits at most, and text no half of a character"
        raise ConfigError(f"{path}: the column {name!r} cannot be read: {why}") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ConfigError(f"{path}: the column {name!r} mixes types ({error}); give all rows the same") from error


def _pairs_of_same_stem(files: list[str], uri: str) -> pa.Table:
    found: dict[str, dict[str, list[str]]] = {}
    for name in files:
        path = PurePosixPath(name.rsplit("/", 1)[-1])
        side = "video" if path.suffix.lower() in _VIDEO else "audio" if path.suffix.lower() in _AUDIO else None
        if side:
            found.setdefault(path.stem, {"video": [], "audio": []})[side].append(name)
    if (odd := next((stem for stem in found if not _is_text(stem)), None)) is not None:
        raise ConfigError(f"{uri}: the name of the file {odd!r} is not in UTF-8; rename it")
    if not found:
        raise ConfigError(
            f"no manifest at {uri}: it must be .parquet, .csv, .jsonl, .ndjson, or a folder with videos and audios"
        )
    wrong = [
        f"{stem} ({len(sides['video'])} videos, {len(sides['audio'])} audios)"
        for stem, sides in found.items()
        if len(sides["video"]) != 1 or len(sides["audio"]) != 1
    ]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ConfigError(f"{uri}: each stem needs one video and one audio, e.g. anna.mp4 and anna.wav; wrong are {shown}")
    pairs = {side: [sides[side][0] for sides in found.values()] for side in ("video", "audio")}
    return pa.table({"clip_id": list(found), **pairs})  # stems are unique here, and what people call their clips


def _is_text(name: str) -> bool:
    return name == name.encode("utf-8", "replace").decode("utf-8")


# Columns


def _replace(table: pa.Table, name: str, column: Any) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def _parent(uri: str) -> str:
    return uri.rpartition("/")[0] or "/"


def _text(table: pa.Table, name: str, uri: str) -> pa.ChunkedArray:
    column = table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)
    ):
        row, value = _first(column)
        raise ConfigError(f"{uri}: {name} of row {row} is {value!r} ({kind}); the column {name!r} must hold text")
    return column.cast(pa.string())


def _first(column: pa.ChunkedArray) -> tuple[int, Any]:
    """The first value that is one, and its row, counted from 1."""
    return next(((row, value) for row, value in enumerate(_values(column), 1) if value is not None), (1, None))


def _absolute(column: pa.ChunkedArray, folder: str) -> pa.ChunkedArray:
    column = _pc.utf8_trim_whitespace(column)
    absolute = _pc.match_substring_regex(column, r"^(/|~/|data:|[A-Za-z][A-Za-z0-9+.:-]*://)")
    joined = _pc.binary_join_element_wise(pa.scalar(join(folder, "").rstrip("/")), column, "/")
    return _pc.if_else(_pc.equal(column, ""), pa.scalar(None, pa.string()), _pc.if_else(absolute, column, joined))


def _clip_ids(table: pa.Table, uri: str) -> pa.ChunkedArray:
    if "clip_id" in table.column_names:
        ids = table["clip_id"]
        ids = ids.cast(pa.string()) if pa.types.is_integer(ids.type) else _text(table, "clip_id", uri)
        if ids.null_count or _pc.any(_pc.equal(ids, "")).as_py():
            ids = _pc.if_else(_pc.not_equal(_pc.fill_null(ids, ""), ""), ids, _made_ids(table))
    else:
        ids = _made_ids(table)
    bad = _pc.or_(
        _pc.match_substring_regex(ids, UNUSABLE_ID),
        _pc.greater(_pc.binary_length(ids), _ID_BYTES),
    )
    if _pc.any(bad).as_py():
        row = _pc.index(bad, True).as_py()
        raise ConfigError(
            f"{uri}: clip_id of row {row + 1} is {ids[row].as_py()[:200]!r}; it becomes a file name, so it must have no slash, "
            f"'..', '::', control character or leading dot and at most {_ID_BYTES} bytes: rename it"
        )
    if _pc.count_distinct(ids).as_py() != len(ids):
        first: dict[str, int] = {}
        for row, clip_id in enumerate(_values(ids), 1):
            if first.setdefault(clip_id, row) != row:
                raise ConfigError(
                    f"{uri}: rows {first[clip_id]} and {row} have the same clip_id {clip_id!r}; "
                    "give each row its own in a column 'clip_id'"
                )
    if pair := twins(ids):
        first_row, second_row = pair
        raise ConfigError(
            f"{uri}: the clip_ids of rows {first_row + 1} and {second_row + 1}, {ids[first_row].as_py()!r} and "
            f"{ids[second_row].as_py()!r}, would be one file on disks where upper and lower case are the same; rename one"
        )
    return ids


def _made_ids(table: pa.Table) -> pa.ChunkedArray:
    """Stem of the video, and 48 bits of a hash of both URIs: a million clips of one stem have one chance in 500 to collide."""
    whole = [_pc.fill_null(table[name], "") for name in ("video", "audio")]
    video, audio = (_map(redact.identity, column) for column in whole)
    ids = _stems_and_hashes(video, audio)
    if video.equals(whole[0]) and audio.equals(whole[1]):
        return ids
    # Two objects may differ in nothing but a token. Of such the whole addresses are hashed.
    count = _pc.value_counts(ids)
    twice = count.filter(_pc.greater(_pc.struct_field(count, "counts"), 1)).field("values")
    return _pc.if_else(_pc.is_in(ids, twice), _stems_and_hashes(video, audio, hashed=whole), ids)


def _stems_and_hashes(
    video: pa.ChunkedArray, audio: pa.ChunkedArray, *, hashed: Sequence[pa.ChunkedArray] | None = None
) -> pa.ChunkedArray:
    stems = _pc.replace_substring_regex(video, r"^data:.*|[?#].*$", "")
    stems = _pc.replace_substring_regex(_pc.replace_substring_regex(stems, r"^.*/", ""), r"\.[^.]*$", "")
    stems = _pc.replace_substring_regex(stems, r"[^\pL\pN_-]+", "_")
    stems = _pc.utf8_trim(_pc.utf8_slice_codeunits(stems, 0, 40), "_-")
    stems = _pc.if_else(_pc.equal(stems, ""), "clip", stems)
    hashes = (
        hashlib.sha256("\0".join(uris).encode()).hexdigest()[:12]
        for uris in zip(*map(_values, hashed or (video, audio)), strict=True)
    )
    return _pc.binary_join_element_wise(stems, pa.chunked_array([pa.array(hashes, pa.string())]), "-")


def _values(column: pa.ChunkedArray) -> Iterator[Any]:
    """Python values, a few at a time: as objects, a million would take a gigabyte."""
    for rows in _pieces(column):
        yield from rows


def _map(action: Callable[[str], str], column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of URIs with ``action`` done to each; as it is when none of them could hold a secret."""
    if not _pc.any(_pc.match_substring_regex(column, r"://.*[?#@;:]")).as_py():
        return column
    return pa.chunked_array([pa.array(map(action, rows), pa.string()) for rows in _pieces(column)], pa.string())


def _pieces(column: pa.ChunkedArray) -> Iterator[list[Any]]:
    for chunk in column.chunks:
        for start in range(0, len(chunk), _ROWS_AT_ONCE):
            yield chunk.slice(start, _ROWS_AT_ONCE).to_pylist()
