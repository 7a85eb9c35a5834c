"""Where everything lies below the output of a job, and the folder of a server. Nobody else puts such an address together.

    clips/{clip_name}.mp4                   finished clips; a name is the clip's id, or a path such as talk/de
    metadata/*.parquet                      the table: one row per clip; or in folders, metadata/language=de/*.parquet
    _work/run.json                          whose run it is
    _work/prune.json                        files that are to go: a prune is under way, or broke off
    _work/records/{clip_id}.json            records that are not in the table yet
    _work/parts/{clip_id}/{key}/00007.mp4   finished segments of unfinished clips; 00007.json says that one is whole
    _work/faces/{key}.parquet               face tracks of videos; in faces/ when they are to be kept
    _work/drafts/                           what is being written
    files/{token}                           what clients of a server uploaded, and its results
    _work/uploads/{token}/00001             pieces of an upload

A part is finished when its JSON is there, a clip when its record is: both are written last.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

__all__ = [
    "WORK",
    "clip_uri",
    "declaration",
    "drafts_folder",
    "drafts_of",
    "faces_folder",
    "faces_uri",
    "file_uri",
    "join",
    "mark_uri",
    "metadata_folder",
    "part_uri",
    "partition",
    "partition_of",
    "parts_folder",
    "prune_uri",
    "record_uri",
    "records_folder",
    "relative",
    "run_uri",
    "upload_folder",
]

_NOTHING = "__HIVE_DEFAULT_PARTITION__"
"""What Hive, Spark and all others call the value of rows that have none."""
WORK = "_work"
"""The folder of what is only needed meanwhile; what is empty in there goes."""


def join(root: str, *names: str) -> str:
    """``root/name/name``, for local paths and URIs alike."""
    return (root if root.endswith("://") else root.rstrip("/") + "/") + "/".join(names)


def relative(uri: str, root: str) -> str | None:
    """The path of ``uri`` below ``root``; None when it is not below."""
    below = uri.removeprefix(join(root, ""))
    return below if below != uri else None


def clip_uri(output: str, clip_name: str) -> str:
    """A finished clip."""
    return join(output, "clips", f"{clip_name}.mp4")


def metadata_folder(output: str) -> str:
    """The table."""
    return join(output, "metadata")


def partition(values: Mapping[str, str | None]) -> str:
    """Where in the table rows lie that have these values, as Hive names it: ``language=de``; empty when there are none."""
    return "/".join(f"{quote(name, safe='')}={quote(value, safe='') if value else _NOTHING}" for name, value in values.items())


def partition_of(uri: str, output: str) -> dict[str, str | None] | None:
    """The values that the place of a file of the table tells; None when the file is none of the table's."""
    pieces = (relative(uri, metadata_folder(output)) or "/").split("/")[:-1]
    if not all("=" in piece for piece in pieces):
        return None
    pairs = (map(unquote, piece.split("=", 1)) for piece in pieces)
    return {name: None if value == _NOTHING else value for name, value in pairs}


def run_uri(output: str) -> str:
    """The sign of the run that works there."""
    return join(output, WORK, "run.json")


def prune_uri(output: str) -> str:
    """The paths of files whose rows a prune takes out, until they are gone."""
    return join(output, WORK, "prune.json")


def mark_uri(output: str, name: str) -> str:
    """A file that nodes look for, to see whether they see the output."""
    return join(output, WORK, f"seen-{name}")


def records_folder(output: str) -> str:
    """Records that are not in the table yet."""
    return join(output, WORK, "records")


def record_uri(output: str, clip_id: str) -> str:
    """A clip's record until it is in the table."""
    return join(records_folder(output), f"{clip_id}.json")


def parts_folder(output: str, *names: str) -> str:
    """All parts; those of a clip, given its id; those of one content of it, given its key too."""
    return join(output, WORK, "parts", *names)


def part_uri(output: str, clip_id: str, key: str, index: int) -> str:
    """The MP4 of a segment."""
    return join(parts_folder(output, clip_id, key), f"{index:05d}.mp4")


def declaration(part: str) -> str:
    """The JSON that declares a part (its URI) finished."""
    return part.removesuffix(".mp4") + ".json"


def drafts_folder(output: str) -> str:
    """What is being written: nothing half-written lies among the clips, not even hidden."""
    return join(output, WORK, "drafts")


def drafts_of(uri: str) -> str | None:
    """The drafts of the output in whose ``_work`` a file is; None when it is in none."""
    output, work, _ = uri.rpartition(f"/{WORK}/")
    return drafts_folder(output) if work else None


def faces_folder(output: str, *, keep: bool) -> str:
    """Face tracks of videos: to be kept, or only for the time of the run."""
    return join(output, "faces") if keep else join(output, WORK, "faces")


def faces_uri(output: str, key: str, *, keep: bool) -> str:
    """The face tracks of one video."""
    return join(faces_folder(output, keep=keep), f"{key}.parquet")


def file_uri(folder: str, token: str) -> str:
    """A file that a client of a server uploaded, or a result."""
    return join(folder, "files", token)


def upload_folder(folder: str, token: str) -> str:
    """The pieces of an upload."""
    return join(folder, WORK, "uploads", token)
