"""The contact sheet: one card per clip, moments of the source beside the same moments of the result.

Knows how to draw cards; which source frame a result frame shows is the media room's grid, as in the run itself.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
from PIL import Image, ImageDraw, ImageFont

from latentsync_ray.config import Recipe
from latentsync_ray.errors import ClipError, ConfigError
from latentsync_ray.media.decode import read_frames
from latentsync_ray.media.grid import frame_grid, repeat
from latentsync_ray.media.index import VideoIndex
from latentsync_ray.media.source import probe_video
from latentsync_ray.records import read_records
from latentsync_ray.storage import fetch
from latentsync_ray.types import ClipRecord

__all__ = ["contact_sheet", "draw_sheet"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them
_COLUMNS = ["clip_id", "status", "error_code", "error", "video", "audio", "output", "frames", "fps", "duration", "loop_mode"]
_WIDTH, _MARGIN, _GAP, _SEAM, _RADIUS = 1600, 24, 14, 2, 10
_INNER = _WIDTH - 4 * _MARGIN
_PICTURE_HEIGHT = 340
"""At most; as many moments as this takes are shown, so that they fill the row."""
_MOST_MOMENTS = 6
_TITLE, _BODY, _CAPTION = 26, 20, 16
"""Font sizes in px."""
_ERROR_LINES = 3
_BACKGROUND, _CARD, _EMPTY = "#15171c", "#20242c", "#2b313b"
_TEXT, _QUIET, _GOOD, _BAD = "#f2f4f8", "#9aa4b2", "#5fd38d", "#ff8a80"

_Moment = tuple[float, np.ndarray, np.ndarray | None]
"""Seconds into the clip, the picture before, and the picture after (None when there is no result)."""


def contact_sheet(output: str, png: Path, *, rows: int = 12) -> None:
    """Draw up to ``rows`` clips of ``output`` into a PNG 1600 px wide, each with a few moments before and after.

    Failed clips take a third of the rows at most, unless there are not enough others, and show what they were told. Raises
    ConfigError when there are no records.
    """
    table = read_records(output, columns=_COLUMNS).sort_by("clip_id")
    if len(table) == 0:
        raise ConfigError(f"{output} has no records: run a job with this output first")
    ok, failed = table.filter(_pc.field("status") == "ok"), table.filter(_pc.field("status") != "ok")
    failed_rows = min(len(failed), max(rows // 3, rows - len(ok)))
    shown = [*ok.slice(0, rows - failed_rows).to_pylist(), *failed.slice(0, failed_rows).to_pylist()]
    title = f"{len(ok)} of {len(table)} clips ok" + (f", {len(shown)} shown" if len(shown) < len(table) else "")
    draw_sheet([ClipRecord.from_row(row) for row in shown], png, title=title)


def draw_sheet(records: Sequence[ClipRecord], png: Path, *, title: str = "") -> None:
    """Draw a card for each of these clips into a PNG 1600 px wide; their files have to be where the records say."""
    cards = [_card(record) for record in records]
    top = _MARGIN + _TITLE + _MARGIN
    height = top + sum(card.height + _MARGIN for card in cards)
    sheet = Image.new("RGB", (_WIDTH, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((2 * _MARGIN, _MARGIN), "Before and after", fill=_TEXT, font=_font(_TITLE))
    draw.text((_WIDTH - 2 * _MARGIN, _MARGIN + 4), title, fill=_QUIET, font=_font(_BODY), anchor="ra")
    for card in cards:
        sheet.paste(card, (_MARGIN, top))
        top += card.height + _MARGIN
    png.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(png)


def _card(record: ClipRecord) -> Image.Image:
    try:
        moments, problem = list(_moments(record)), record.error
    except ClipError as error:  # the files may have gone since
        moments, problem = [], record.error or f"cannot be shown: {error}"
    _, size = _layout(*moments[0][1].shape[:2]) if moments else (0, (0, 0))
    lines = _wrapped(problem) if problem else []
    header = _GAP + _TITLE + _GAP + len(lines) * (_BODY + 6) + (_GAP // 2 if lines else 0)
    pictures = size[1] + _CAPTION + 2 * _GAP if moments else _GAP
    card = Image.new("RGB", (_WIDTH - 2 * _MARGIN, header + pictures), _BACKGROUND)
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle((0, 0, card.width - 1, card.height - 1), _RADIUS, fill=_CARD)
    good = record.status == "ok"
    facts = f"{record.frames} frames   {record.duration:.1f} s   {record.fps:g} fps" if good else record.error_code
    draw.ellipse((_MARGIN, _GAP + 9, _MARGIN + 12, _GAP + 21), fill=_GOOD if good else _BAD)
    draw.text((_MARGIN + 24, _GAP), textwrap.shorten(record.clip_id, 70, placeholder="..."), fill=_TEXT, font=_font(_TITLE))
    draw.text((card.width - _MARGIN, _GAP + 4), facts, fill=_QUIET if good else _BAD, font=_font(_BODY), anchor="ra")
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _GAP + _TITLE + _GAP + number * (_BODY + 6)), line, fill=_BAD, font=_font(_BODY))
    left = _MARGIN
    for seconds, before, after in moments:
        _pair(card, (left, header), size, before, after, seconds)
        left += 2 * size[0] + _SEAM + 2 * _GAP
    return card


def _pair(
    card: Image.Image, at: tuple[int, int], size: tuple[int, int], before: np.ndarray, after: np.ndarray | None, seconds: float
) -> None:
    """Two pictures joined at a seam, with rounded outer corners, and their captions."""
    (width, height), pair = size, Image.new("RGB", (2 * size[0] + _SEAM, size[1]), _EMPTY)
    for picture, left in ((before, 0), (after, width + _SEAM)):
        if picture is not None:
            pair.paste(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), (left, 0))
    draw = ImageDraw.Draw(pair)
    if after is None:
        draw.text((width + _SEAM + width // 2, height // 2), "no result", fill=_QUIET, font=_font(_BODY), anchor="mm")
    mask = Image.new("L", pair.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, pair.width - 1, pair.height - 1), _RADIUS, fill=255)
    card.paste(pair, at, mask)
    captions = ImageDraw.Draw(card)
    below = at[1] + height + 6
    captions.text((at[0], below), f"before  {int(seconds) // 60}:{seconds % 60:04.1f}", fill=_QUIET, font=_font(_CAPTION))
    captions.text((at[0] + width + _SEAM, below), "after", fill=_QUIET, font=_font(_CAPTION))


def _moments(record: ClipRecord) -> Iterator[_Moment]:
    """Moments spread over the clip; raises ClipError when its files cannot be read."""
    source, index = _probe(record.video)
    count, _ = _layout(index.height, index.width)
    if record.status != "ok":
        rows = _spread(len(index), 1)
        pictures = _pictures(source, index, rows)
        for row in rows.tolist():
            yield float((int(index.pts[row]) - int(index.pts[0])) * index.time_base), pictures[row], None
        return
    rate = Fraction(record.fps).limit_denominator(1001)
    shown = repeat(frame_grid(index, rate, "near"), record.frames, record.loop_mode or "pingpong")
    result, result_index = _probe(record.output)
    frames = _spread(min(record.frames, len(result_index)), count)
    before, after = _pictures(source, index, shown[frames]), _pictures(result, result_index, frames)
    for frame in frames.tolist():
        yield float(frame / rate), before[int(shown[frame])], after[frame]


def _probe(uri: str) -> tuple[Path, VideoIndex]:
    path, limits = fetch(uri), Recipe()
    return path, probe_video(path, max_pixels=limits.max_pixels, max_seconds=limits.max_seconds)


def _pictures(path: Path, index: VideoIndex, rows: np.ndarray) -> dict[int, np.ndarray]:
    return {row: picture.rgb() for row, picture in read_frames(path, index, np.sort(rows).astype(np.int32))}


def _spread(length: int, count: int) -> np.ndarray:
    """``count`` places between the ends of ``length``, int32, fewer when there are fewer."""
    return np.unique((np.arange(1, count + 1) * length // (count + 1)).clip(0, length - 1)).astype(np.int32)


def _layout(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """How many moments fill a row with pictures of this shape, and the (width, height) of one in px on the sheet."""
    for count in range(1, _MOST_MOMENTS + 1):
        across = ((_INNER + 2 * _GAP) // count - 2 * _GAP - _SEAM) // 2
        if across * height <= _PICTURE_HEIGHT * width:
            return count, (across, max(1, round(across * height / width)))
    return _MOST_MOMENTS, (max(1, round(_PICTURE_HEIGHT * width / height)), _PICTURE_HEIGHT)


def _wrapped(text: str) -> list[str]:
    width = int(_INNER / _font(_BODY).getlength("n"))
    return textwrap.wrap(text, width, max_lines=_ERROR_LINES, placeholder=" ...")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
