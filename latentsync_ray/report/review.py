"""What the page shows of single clips: pictures of a moment, where a browser finds the videos, and which seed is next."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute
from PIL import Image

from latentsync_ray import redact
from latentsync_ray.config import Recipe
from latentsync_ray.errors import ClipError
from latentsync_ray.filesystems import is_remote, opened
from latentsync_ray.layout import join
from latentsync_ray.records import read_records
from latentsync_ray.report.moments import moments_of
from latentsync_ray.types import ClipRecord

__all__ = ["MEANINGS", "Pictures", "Seen", "look_at"]

MEANINGS = {
    "sync_score": "the probability that lips and sound belong together; low is bad",
    "sync_correlation": "whether the lips move when the sound does, -1 to 1; low is bad, and short clips vary most",
    "seam": "the step across the border of what was drawn, in grey levels; high is bad",
    "sharpness": "of the lips, against the filmed ones: 1 is as sharp; low is bad",
    "flicker": "how far frames are off their neighbours, in grey levels; high is bad",
    "identity": "how alike the skin around the lips is to the filmed one: 1 is the same; low is bad",
    "skin_shift": "how much the skin's colour changed, CIEDE2000; high is bad",
    "silence_motion": "how much the lips move in silence, as a share of how much they do in speech; high is bad",
}
"""Measure -> what it says, for those who look."""
_COLUMNS = ["clip_id", "status", "error_code", "error", "video", "audio", "output", "output_path"]
_COLUMNS += ["frames", "fps", "duration", "loop_mode", "seed", "attempts"]
_SIDE, _QUALITY = 240, 68
"""Of a picture, px at most and JPEG's quality: 4 to 10 kB."""

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


@dataclass(frozen=True, slots=True)
class Pictures:
    """Data URIs of a moment of the source and of the result; empty when there is none."""

    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A clip as the page has it."""

    pictures: Mapping[int | None, Pictures] = field(default_factory=dict)
    """Frame -> its pictures; None: some frame in the middle."""
    source: str = ""
    """Address relative to the page; empty when no browser finds it."""
    result: str = ""
    no_source: str = "the source is gone"
    """Why there is no ``source``."""
    no_result: str = "no result"
    loop_mode: str = "pingpong"
    seed: str = ""
    """That the row asked for, as text: JavaScript's numbers are too small."""
    next_seed: str = str(Recipe().seed + 1)
    """One that was not tried."""
    attempts: int = 1


def look_at(output: str, wanted: Mapping[str, Set[int | None]], folder: Path) -> dict[str, Seen]:
    """Clip -> what a page in ``folder`` shows of it. ``wanted`` are the frames of each."""
    table = read_records(output, columns=_COLUMNS)
    rows = table.filter(_pc.is_in(table["clip_id"], pa.array(wanted, pa.string()))).to_pylist()
    return {row["clip_id"]: _seen(ClipRecord.from_row(row), output, wanted[row["clip_id"]], folder) for row in rows}


def _seen(record: ClipRecord, output: str, frames: Set[int | None], folder: Path) -> Seen:
    source, no_source = _address(record.video, folder)
    result, no_result = "", "no result"
    for uri in (record.output_path and join(output, record.output_path), record.output):
        if uri and not result:
            result, no_result = _address(uri, folder)
    tried = [each["seed"] for each in record.attempts or () if each["seed"] is not None]
    tried = tried or [seed for seed in (record.seed,) if seed is not None]
    known = {"seed": str(tried[0]), "next_seed": str((max(tried) + 1) % 2**63)} if tried else {}
    return Seen(
        pictures=_pictures(record, output, frames),
        source=source,
        result=result,
        no_source=f"the source {no_source}" if no_source else "",
        no_result=f"the result {no_result}" if record.ok and no_result != "no result" else no_result,
        loop_mode=record.loop_mode or "pingpong",
        attempts=len(record.attempts or ()) or 1,
        **known,
    )


def _address(uri: str, folder: Path) -> tuple[str, str]:
    """Where a page in ``folder`` finds a file of this machine, or why it does not."""
    if not redact.is_whole(uri):
        return "", "cannot be played: its address is not kept, because it held a secret or the content itself"
    if is_remote(uri):
        return "", "cannot be played: it is not on a disk of this machine"
    path = Path(opened(uri)[1])
    if not path.is_file():
        return "", "is gone"
    return quote(os.fsencode(os.path.relpath(path, folder.absolute()))), ""


def _pictures(record: ClipRecord, output: str, frames: Set[int | None]) -> dict[int | None, Pictures]:
    if not frames:
        return {}
    middle = record.frames // 2 if record.frames else None
    places = {frame: middle if frame is None else frame for frame in frames}
    at = sorted({place for place in places.values() if place is not None})
    try:
        drawn = [Pictures(_data_uri(before), _data_uri(after)) for _, before, after in moments_of(record, output, at=at)]
    except ClipError:  # its files have gone, or were never readable
        return {}
    by_place = dict(zip(at or [None], drawn, strict=False))  # of a failed clip, one
    return {frame: by_place[place] for frame, place in places.items() if place in by_place}


def _data_uri(picture: np.ndarray | None) -> str:
    if picture is None:
        return ""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
