"""The contact sheet: one card per clip, moments of the source beside the same moments of the result.

Knows how to draw cards; ``moments`` finds the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from latentsync_ray import redact
from latentsync_ray.errors import ClipError, ConfigError, headline
from latentsync_ray.lettering import draw_text, shorten, text_width, wrap
from latentsync_ray.records import read_records
from latentsync_ray.report.choice import RULE, choose
from latentsync_ray.report.moments import Moment, moments_of
from latentsync_ray.report.picture import check_name, save
from latentsync_ray.types import ClipRecord

__all__ = ["contact_sheet", "draw_sheet"]

_COLUMNS = [
    *("clip_id", "status", "error_code", "error", "video", "audio", "output", "output_path"),
    *("frames", "fps", "duration", "loop_mode", "sync_score"),
]
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
_NOT_KEPT = "no pictures from before: the source's address is not kept, because it held a secret or the content itself"


def contact_sheet(output: str, picture: Path, *, rows: int = 12) -> None:
    """Draw up to ``rows`` clips of ``output`` into a PNG, JPEG or WebP 1600 px wide, each with moments before and after.

    Which clips: see ``choose``. Results are looked for in ``output`` first, so that a folder that was moved can be drawn; the
    file stays under 1 MB. Raises ConfigError when there are no records or the picture's name ends in something else.
    """
    check_name(picture)
    table = read_records(output, columns=_COLUMNS)
    if len(table) == 0:
        raise ConfigError(f"{output} has no records: it is not the output of a job, or none of its clips is finished yet")
    shown = [ClipRecord.from_row(row) for row in choose(table, rows).to_pylist()]
    ok = len(table) - table["status"].to_pylist().count("failed")
    title = f"{ok} of {len(table)} clips ok" + (f", {len(shown)} shown" if len(shown) < len(table) else "")
    draw_sheet(shown, picture, title=title, caption=RULE if len(table) > 1 else "", folder=output)


def draw_sheet(
    records: Sequence[ClipRecord], picture: Path, *, title: str = "", caption: str = "", folder: str | None = None
) -> None:
    """Draw a card for each of these clips into a PNG, JPEG or WebP 1600 px wide.

    Their files have to be where the records say; results are looked for in the output ``folder`` first when one is given.
    Raises ConfigError when the picture's name ends in something else.
    """
    check_name(picture)
    cards = [_card(record, folder) for record in records]
    top = _MARGIN + _TITLE + _MARGIN + (_CAPTION + _GAP if caption else 0)
    height = top + sum(card.height + _MARGIN for card in cards)
    sheet = Image.new("RGB", (_WIDTH, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw_text(draw, (2 * _MARGIN, _MARGIN), "Before and after", size=_TITLE, fill=_TEXT)
    draw_text(draw, (_WIDTH - 2 * _MARGIN, _MARGIN + 4), title, size=_BODY, fill=_QUIET, right=True)
    draw_text(draw, (2 * _MARGIN, _MARGIN + _TITLE + _GAP), caption, size=_CAPTION, fill=_QUIET)
    for card in cards:
        sheet.paste(card, (_MARGIN, top))
        top += card.height + _MARGIN
    save(sheet, picture)


def _card(record: ClipRecord, folder: str | None) -> Image.Image:
    try:
        moments, problem = list(moments_of(record, folder, count=lambda *shape: _layout(*shape)[0])), headline(record.error)
    except ClipError as error:  # the files may have gone since
        moments, problem = [], headline(record.error) or f"cannot be shown: {error}"
    problem = problem or (None if redact.is_whole(record.video) else _NOT_KEPT)
    _, size = _layout(*_shape(moments[0])) if moments else (0, (0, 0))
    lines = wrap(problem, _BODY, _INNER, most=_ERROR_LINES) if problem else []
    header = _GAP + _TITLE + _GAP + len(lines) * (_BODY + 6) + (_GAP // 2 if lines else 0)
    pictures = size[1] + _CAPTION + 2 * _GAP if moments else _GAP
    card = Image.new("RGB", (_WIDTH - 2 * _MARGIN, header + pictures), _BACKGROUND)
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle((0, 0, card.width - 1, card.height - 1), _RADIUS, fill=_CARD)
    draw.ellipse((_MARGIN, _GAP + 9, _MARGIN + 12, _GAP + 21), fill=_GOOD if record.ok else _BAD)
    facts = _facts(record)
    room = _INNER - 24 - text_width(facts, _BODY) - 2 * _GAP
    draw_text(draw, (_MARGIN + 24, _GAP), shorten(record.clip_id, _TITLE, room), size=_TITLE, fill=_TEXT)
    right = (card.width - _MARGIN, _GAP + 4)
    draw_text(draw, right, facts, size=_BODY, fill=_QUIET if record.ok else _BAD, right=True)
    colour = _QUIET if problem == _NOT_KEPT else _BAD
    for number, line in enumerate(lines):
        draw_text(draw, (_MARGIN, _GAP + _TITLE + _GAP + number * (_BODY + 6)), line, size=_BODY, fill=colour)
    left = _MARGIN
    for moment in moments:
        _pair(card, (left, header), size, moment, gone="source is gone" if redact.is_whole(record.video) else "not kept")
        left += 2 * size[0] + _SEAM + 2 * _GAP
    return card


def _facts(record: ClipRecord) -> str:
    if record.failed:
        return record.error_code or "failed"
    known = [
        (record.frames, "{} frames"),
        (record.duration, "{:.1f} s"),
        (record.fps, "{:g} fps"),
        (record.sync_score, "sync {:.2f}"),
    ]
    return ", ".join(text.format(value) for value, text in known if value is not None)


def _pair(card: Image.Image, at: tuple[int, int], size: tuple[int, int], moment: Moment, *, gone: str) -> None:
    """Two pictures joined at a seam, with rounded outer corners, and their captions; ``gone`` in place of a missing source."""
    (width, height), pair = size, Image.new("RGB", (2 * size[0] + _SEAM, size[1]), _EMPTY)
    seconds, before, after = moment
    draw = ImageDraw.Draw(pair)
    for picture, left, missing in ((before, 0, gone), (after, width + _SEAM, "no result")):
        if picture is not None:
            pair.paste(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), (left, 0))
        else:
            middle = left + (width - text_width(missing, _CAPTION)) / 2
            draw_text(draw, (middle, height / 2 - _CAPTION / 2), missing, size=_CAPTION, fill=_QUIET)
    mask = Image.new("L", pair.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, pair.width - 1, pair.height - 1), _RADIUS, fill=255)
    card.paste(pair, at, mask)
    captions, below = ImageDraw.Draw(card), at[1] + height + 6
    time = f"before {int(seconds) // 60}:{seconds % 60:04.1f}"
    draw_text(captions, (at[0], below), time, size=_CAPTION, fill=_QUIET)
    draw_text(captions, (at[0] + width + _SEAM, below), "after", size=_CAPTION, fill=_QUIET)


def _shape(moment: Moment) -> tuple[int, int]:
    """Height and width of its pictures in px; those before and after differ by the padding at most."""
    picture = moment[2] if moment[2] is not None else moment[1]
    assert picture is not None
    return picture.shape[:2]


def _layout(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """How many moments fill a row with pictures of this shape, and the (width, height) of one in px on the sheet."""
    for count in range(1, _MOST_MOMENTS + 1):
        across = ((_INNER + 2 * _GAP) // count - 2 * _GAP - _SEAM) // 2
        if across * height <= _PICTURE_HEIGHT * width:
            return count, (across, max(1, round(across * height / width)))
    return _MOST_MOMENTS, (max(1, round(_PICTURE_HEIGHT * width / height)), _PICTURE_HEIGHT)
