"""Where clips lie below ``clips/``: a template that is filled from the manifest's columns, as columns of Arrow.

What a column says becomes one piece of a path: only the template makes folders.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute

from latentsync_ray import redact
from latentsync_ray.errors import ConfigError
from latentsync_ray.naming import DEFAULT_TEMPLATE, pieces
from latentsync_ray.types import UNUSABLE_NAME

__all__ = ["clip_names", "twins", "unusable"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_STEMS = {"video_stem": "video", "audio_stem": "audio"}
"""Field -> the column whose file name it is, without the ending."""
_UNSAFE = r"""[\\/:*?"<>|%#&\x00-\x1f\x7f]+"""
"""What some storage refuses in a name, or reads as something else."""
_PIECE_BYTES, _NAME_BYTES = 180, 800
"""Most disks take 255 for a name, object stores 1024 for a whole path: the rest is for drafts, and for the output's path."""


def clip_names(table: pa.Table, template: str, uri: str) -> pa.ChunkedArray | None:
    """The name of each row's clip, its path below ``clips/`` without ".mp4"; None when that is its id for all.

    With the usual template, a column ``clip_name`` says it for each row that fills it.

    Raises ConfigError, which names the row in ``uri``, for a column that is missing or empty, names that some storage would
    refuse, and names that are not unique, upper and lower case being the same.
    """
    if template == DEFAULT_TEMPLATE:
        if "clip_name" not in table.column_names:
            return None
        names = _pc.if_else(_pc.not_equal(_pc.fill_null(table["clip_name"], ""), ""), table["clip_name"], table["clip_id"])
        template = "{clip_name}"
    else:
        names = _named(table, template, uri)
    if (row := _pc.index(unusable(names), True).as_py()) >= 0:
        raise ConfigError(
            f"{uri}: clip_name {template!r} gives row {row + 1} the name {names[row].as_py()[:200]!r}, which not every storage "
            "takes: no piece of it may be empty, begin with a dot or have more than 180 bytes, no folder end in .mp4. Columns "
            "in braces are for the job's clip_name"
        )
    _check_unique(names, template, uri)
    return names


def _named(table: pa.Table, template: str, uri: str) -> pa.ChunkedArray:
    filled = [_filled(table, field, text, uri) for field, text in pieces(template)]
    return filled[0] if len(filled) == 1 else _pc.binary_join_element_wise(*filled, "")


def unusable(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each name is one that not every storage takes: booleans."""
    too_long = _pc.match_substring_regex(names.cast(pa.binary()), rf"[^/]{{{_PIECE_BYTES + 1}}}")  # as bytes, not characters
    too_long = _pc.or_(too_long, _pc.greater(_pc.binary_length(names), _NAME_BYTES))
    return _pc.or_(_pc.match_substring_regex(names, UNUSABLE_NAME), too_long)


def twins(names: pa.ChunkedArray) -> tuple[int, int] | None:
    """Two rows whose names are one file on disks where upper and lower case are the same, and composed letters too."""
    plain = _pc.utf8_lower(_pc.utf8_normalize(names, form="NFC"))
    if _pc.count_distinct(plain).as_py() == len(plain):
        return None
    counts = plain.value_counts()
    twice = counts.filter(_pc.greater(_pc.struct_field(counts, "counts"), 1)).field("values")[0]
    first, second = _pc.indices_nonzero(_pc.equal(plain, twice))[:2].to_pylist()
    return first, second


def _check_unique(names: pa.ChunkedArray, template: str, uri: str) -> None:
    if (pair := twins(names)) is None:
        return
    first, second = pair
    raise ConfigError(
        f"{uri}: clip_name {template!r} gives rows {first + 1} and {second + 1} one name, {names[second].as_py()!r} "
        "(upper and lower case are the same on some disks); add a column that tells them apart, such as {clip_id}"
    )


def _filled(table: pa.Table, field: str | None, text: str, uri: str) -> Any:
    if field is None:
        return pa.scalar(text)
    name = _STEMS.get(field, field) if field not in table.column_names else field
    if name not in table.column_names:
        known = ", ".join(dict.fromkeys([*_STEMS, *table.column_names]))
        raise ConfigError(f"clip_name: {uri} has no column {field!r}; known are {known}")
    column = table[name]
    if name != field:
        column = _stem(column)
    elif not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_integer(column.type)):
        raise ConfigError(f"clip_name: the column {field!r} holds {column.type}; only text and whole numbers can be in names")
    values = _pc.replace_substring_regex(_pc.fill_null(column.cast(pa.string()), ""), _UNSAFE, "_")
    values = _pc.utf8_trim(values, ". ")
    if (row := _pc.index(values, "").as_py()) >= 0:
        raise ConfigError(f"{uri}: row {row + 1} has no {field}, which clip_name needs; fill it, or leave it out of clip_name")
    return values


def _stem(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    """File names without their endings; of an address without its query, and without secrets."""
    uris = _shown(uris)
    remote = _pc.match_substring_regex(uris, r"(?i)^https?://")
    paths = _pc.if_else(remote, _pc.replace_substring_regex(uris, r"[?#].*$", ""), uris)
    names = _pc.replace_substring_regex(_pc.replace_substring_regex(paths, r"^data:.*", ""), r"^.*/", "")
    return _pc.replace_substring_regex(names, r"\.[^.]*$", "")


def _shown(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    if not _pc.any(_pc.match_substring_regex(uris, r"://.*[?#@;:]")).as_py():
        return uris  # none of them could hold a secret
    pieces = [(each.as_py() for each in chunk) for chunk in uris.chunks]
    return pa.chunked_array(
        [pa.array((uri and redact.shown(uri) for uri in some), pa.string()) for some in pieces], pa.string()
    )
