"""A clip in pictures: moments of its source beside the same moments of its result.

Which source frame a result frame shows is the media room's grid, as in the run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from latentsync_ray import redact
from latentsync_ray.config import Recipe
from latentsync_ray.errors import ClipError, InputNotFound
from latentsync_ray.layout import join
from latentsync_ray.media.decode import read_frames
from latentsync_ray.media.grid import frame_grid, repeat
from latentsync_ray.media.index import VideoIndex
from latentsync_ray.media.source import probe_video
from latentsync_ray.storage import fetch
from latentsync_ray.types import ClipRecord

__all__ = ["Moment", "moments_of"]

_ANY_PIXELS, _ANY_SECONDS = 1 << 29, 1e9
"""Limits for clips that are finished: theirs may have been raised above the default. FFmpeg takes no larger ones."""

Moment = tuple[float, np.ndarray | None, np.ndarray | None]
"""Seconds into the clip, the picture before, and the picture after (None when it is gone, or was never made)."""


def moments_of(
    record: ClipRecord,
    folder: str | None,
    *,
    count: Callable[[int, int], int] = lambda height, width: 1,
    at: Sequence[int] = (),
) -> Iterator[Moment]:
    """Moments spread over the clip, of a finished one ``count(height, width)`` for pictures of that shape, of a failed one one.

    Of a finished one it is the frames ``at`` instead, when there are any: in order, each once, and none beyond its end.

    Results are looked for in the output ``folder`` first when one is given. Raises ClipError when the files cannot be read.
    """
    if record.failed:
        source, index = _probe(record.video)
        rows = _spread(len(index), 1)
        pictures = _pictures(source, index, rows)
        for row in rows.tolist():
            yield float((int(index.pts[row]) - int(index.pts[0])) * index.time_base), pictures[row], None
        return
    result, result_index = _result(record, folder)
    rate = Fraction(record.fps or result_index.rate).limit_denominator(1001)
    shape = result_index.height, result_index.width
    frames = _within(at, len(result_index)) if at else _spread(len(result_index), count(*shape))
    after = _pictures(result, result_index, frames)
    before = _before(record, rate, after)
    for frame in frames.tolist():
        yield float(frame / rate), before.get(frame), after[frame]


def _result(record: ClipRecord, folder: str | None) -> tuple[Path, VideoIndex]:
    if folder and record.output_path:
        try:
            return _probe(join(folder, record.output_path), any_size=True)
        except InputNotFound:
            pass  # another folder's record, or one whose clip went elsewhere
    if record.output is None:
        raise InputNotFound("the record names no result")
    return _probe(record.output, any_size=True)


def _before(record: ClipRecord, rate: Fraction, after: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """By result frame, what the source shows there; nothing when the source is gone.

    Records do not tell the recipe's ``fps_rule``. Where its two values differ, the pictures tell: but for the mouth, the result
    shows what the source shows.
    """
    try:
        source, index = _probe(record.video, any_size=True)
    except ClipError:
        return {}
    frames = np.array(sorted(after))
    choices: list[np.ndarray] = []
    for rule in ("near", "cli"):
        shown = repeat(frame_grid(index, rate, rule), int(frames[-1]) + 1, record.loop_mode or "pingpong")[frames]
        if not any(np.array_equal(shown, other) for other in choices):
            choices.append(shown)
    pictures = _pictures(source, index, np.concatenate(choices))

    def difference(shown: np.ndarray) -> float:
        return sum(_difference(pictures[int(row)], after[int(frame)]) for row, frame in zip(shown, frames, strict=True))

    best = choices[0] if len(choices) == 1 else min(choices, key=difference)
    return {int(frame): pictures[int(row)] for row, frame in zip(best, frames, strict=True)}


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    height, width = np.minimum(one.shape, other.shape)[:2]  # results are padded to even sizes
    return float(np.abs(one[:height:2, :width:2].astype(np.int16) - other[:height:2, :width:2]).mean())


def _probe(uri: str, *, any_size: bool = False) -> tuple[Path, VideoIndex]:
    if not redact.is_whole(uri):
        raise InputNotFound("its address is not kept, because it held a secret or the content itself")
    limits = Recipe()
    pixels, seconds = (_ANY_PIXELS, _ANY_SECONDS) if any_size else (limits.max_pixels, limits.max_seconds)
    path = fetch(uri)
    return path, probe_video(path, max_pixels=pixels, max_seconds=seconds)


def _pictures(path: Path, index: VideoIndex, rows: np.ndarray) -> dict[int, np.ndarray]:
    return {row: picture.rgb() for row, picture in read_frames(path, index, np.sort(rows).astype(np.int32))}


def _within(frames: Sequence[int], length: int) -> np.ndarray:
    return np.unique(np.clip(frames, 0, length - 1)).astype(np.int32)


def _spread(length: int, count: int) -> np.ndarray:
    """``count`` places between the ends of ``length``, int32, fewer when there are fewer."""
    return np.unique((np.arange(1, count + 1) * length // (count + 1)).clip(0, length - 1)).astype(np.int32)
