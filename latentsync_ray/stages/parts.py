"""The parts of a clip in storage, while it is being made.

The JSON is written last and is what makes a part finished; a part's name is made from content, so a retried task writes the
same one.
"""

from __future__ import annotations

import base64
import dataclasses as dc
import json
import zlib
from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from latentsync_ray import storage
from latentsync_ray.errors import InputNotFound, MixedParts
from latentsync_ray.layout import declaration, drafts_folder, faces_folder, part_uri, parts_folder
from latentsync_ray.types import Clip, Part, Segment

__all__ = ["drop_clip", "drop_parts", "finished_parts", "load_part", "save_part", "sweep"]

_ASKED = (
    *("video", "audio", "video_version", "audio_version", "settings", "language", "clip_name", "consent"),
    *("attempt", "first_key"),
)
"""What may hold secrets, or be another when the part is asked for again, without a change of the part."""

_BY_FRAME = ("M", "H", "L", "E")
"""First axes of what a part knows of each of its frames."""


def save_part(part: Part, data: bytes) -> None:
    """Write the MP4, then the JSON that declares it finished."""
    storage.write_bytes(part.uri, data)
    row = {name: value for name, value in part.to_row().items() if name not in _ASKED}
    storage.write_bytes(declaration(part.uri), json.dumps(row, default=_written).encode())


def load_part(output: str, segment: Segment) -> Part:
    """A part that an earlier run or pass finished. Raises MixedParts when it went away, or was torn as a machine died."""
    uri = part_uri(output, segment.clip_id, segment.key, segment.index)
    try:
        row = json.loads(storage.read_bytes(declaration(uri)))
    except InputNotFound as error:
        raise MixedParts(f"the finished part {uri} went away; run the job again to have it made again") from error
    except ValueError:
        row = None
    if not isinstance(row, dict):
        storage.delete([declaration(uri)])
        raise MixedParts(f"the finished part {uri} is not whole; run the job again to have it made again")
    arrays = {field.name: _read(row.get(field.name), field, segment) for field in dc.fields(Part) if field.metadata}
    asked = {name: getattr(segment, name) for name in _ASKED}
    return Part.from_row({**row, **arrays, **asked, "uri": uri, "found": True})


def _written(array: np.ndarray) -> list[float] | str:
    """Curves as numbers, tables compressed."""
    return array.tolist() if array.ndim == 1 else base64.b64encode(zlib.compress(array.tobytes())).decode()


def _read(written: list[float] | str | None, field: dc.Field[Any], segment: Segment) -> np.ndarray:
    """What ``_written`` wrote. Parts that were made before there was such a column know no curve, and no rows of a table."""
    axes, dtype = field.metadata["axes"], field.metadata["dtype"]
    shape = [int(axis) if axis.isdigit() else -1 for axis in axes]
    if isinstance(written, str):
        return np.frombuffer(zlib.decompress(base64.b64decode(written)), dtype).reshape(shape)
    if written is not None:
        return np.array(written, dtype).reshape(shape)
    if axes[0] in _BY_FRAME:
        return np.full((segment.stop - segment.start, *shape[1:]), np.nan, dtype)
    return np.zeros([max(length, 0) for length in shape], dtype)


def finished_parts(output: str, clip: Clip) -> np.ndarray:
    """Indices int32 (D,) of the segments whose parts lie in storage, by one listing."""
    names = [uri.rsplit("/", 1)[-1] for uri in storage.list_files(parts_folder(output, clip.clip_id, clip.key))]
    return np.array(sorted(int(name.removesuffix(".json")) for name in names if name.endswith(".json")), np.int32)


def drop_parts(parts: Sequence[Part]) -> None:
    """Remove the parts of a clip, declarations first."""
    storage.delete([declaration(part.uri) for part in parts])
    storage.delete([part.uri for part in parts])


def drop_clip(output: str, clip_id: str) -> None:
    """Remove whatever parts there are of a clip, declarations first."""
    left = storage.find_files(parts_folder(output, clip_id))
    storage.delete([uri for uri in left if uri.endswith(".json")])
    storage.delete([uri for uri in left if not uri.endswith(".json")])


def sweep(output: str, keep: Container[str]) -> None:
    """Remove what is left of parts, face tracks and drafts when nobody works any more, except parts of clips in ``keep``."""
    root = parts_folder(output)
    left = [uri for uri in storage.find_files(root) if uri.removeprefix(root).split("/")[1] not in keep]
    others = [drafts_folder(output), faces_folder(output, keep=False)]
    storage.delete(left + [uri for folder in others for uri in storage.find_files(folder)])
