"""The sheet of faces: who is in a clip, when each can be seen, and who got the speech.

Works from the face tracks that a job kept (``keep_faces``); a number on the sheet is what ``face`` takes.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from latentsync_ray import redact, storage
from latentsync_ray.config import Recipe
from latentsync_ray.errors import ClipError
from latentsync_ray.faces.store import read_tracks
from latentsync_ray.faces.tracks import Track, Tracks
from latentsync_ray.layout import join
from latentsync_ray.lettering import draw_text, shorten
from latentsync_ray.records import read_records
from latentsync_ray.report.choice import choose
from latentsync_ray.report.picture import check_name, save
from latentsync_ray.stages.inputs import fetch_input, probe
from latentsync_ray.stages.track import chosen
from latentsync_ray.types import ClipRecord

__all__ = ["faces_sheet"]

_COLUMNS = ["clip_id", "status", "error_code", "error", "video", "audio", "faces_path", "face", "face_choice", "face_tracks"]
_COLUMNS += ["frames", "frames_without_face", "sync_score"]
_WIDTH, _MARGIN, _FACE, _ROW, _HEAD = 1200, 20, 96, 112, 44
_BAR = (340, 820)
"""Left edge and width of the bars."""
_MOST = 8
"""Faces of a clip that are drawn: those that are seen for longest."""
_BACKGROUND, _CARD, _EMPTY, _SEEN, _HIDDEN, _SPEAKS = "#15171c", "#20242c", "#2b313b", "#6b7686", "#d9694a", "#5fd38d"
_TEXT, _QUIET = "#f2f4f8", "#9aa4b2"
_TITLE, _BODY = 22, 16


def faces_sheet(output: str, picture: Path, *, rows: int = 12) -> int:
    """Draw the faces of up to ``rows`` clips of ``output``, and return of how many there was something to draw.

    Which clips: see ``choice.choose``. Nothing is drawn when no face tracks were kept. Raises ConfigError when there are no
    records or the picture's name ends in something else.
    """
    check_name(picture)
    table = read_records(output, columns=_COLUMNS)
    kept = table.filter(table["faces_path"].is_valid())
    cards = []
    for row in choose(kept, rows).to_pylist() if len(kept) else []:
        record = ClipRecord.from_row(row)
        try:
            tracks = read_tracks(storage.read_bytes(join(output, str(record.faces_path))))
        except (ClipError, ValueError):
            continue  # it went away since
        if tracks.tracks:
            cards.append(_card(record, tracks))
    if not cards:
        return 0
    top = 2 * _MARGIN + _TITLE + _BODY
    sheet = Image.new("RGB", (_WIDTH, top + sum(card.height + _MARGIN for card in cards)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw_text(draw, (_MARGIN, _MARGIN), "Faces", size=_TITLE, fill=_TEXT)
    legend = (("gets the speech", _SPEAKS), ("seen", _SEEN), ("something before the mouth", _HIDDEN))
    left = 130.0
    for text, colour in legend:
        draw.rectangle((left, _MARGIN + 8, left + 22, _MARGIN + 18), fill=colour)
        draw_text(draw, (left + 30, _MARGIN + 3), text, size=_BODY, fill=_QUIET)
        left += 60 + 8.2 * len(text)
    for card in cards:
        sheet.paste(card, (0, top))
        top += card.height + _MARGIN
    save(sheet, picture)
    return len(cards)


def _card(record: ClipRecord, tracks: Tracks) -> Image.Image:
    shown = sorted(sorted(tracks.tracks, key=len, reverse=True)[:_MOST], key=lambda track: track.id)
    more = len(tracks.tracks) - len(shown)
    card = Image.new("RGB", (_WIDTH, _HEAD + _ROW * len(shown) + (28 if more else 8)), _CARD)
    draw = ImageDraw.Draw(card)
    draw_text(draw, (_MARGIN, 12), shorten(record.clip_id, _TITLE, 600), size=_TITLE, fill=_TEXT)
    told = f"face: {record.face or 'speaking'}" + (f", chosen by: {record.face_choice}" if record.face_choice else "")
    draw_text(draw, (_WIDTH - _MARGIN, 16), told, size=_BODY, fill=_QUIET, right=True)
    weights = _weights(record, tracks)
    for place, track in enumerate(shown):
        _line(card, draw, _HEAD + place * _ROW, track, tracks, weights.get(track.id))
    if more:
        draw_text(draw, (_MARGIN, card.height - 26), f"and {more} more, seen for less long", size=_BODY, fill=_QUIET)
    return card


def _weights(record: ClipRecord, tracks: Tracks) -> dict[int, np.ndarray]:
    """Track -> how much of it was shown at each frame of the video. Where that is gone: all of those that were shown at all."""
    limits = Recipe(max_pixels=1 << 29, max_seconds=1e9)
    try:
        if redact.is_whole(record.video):
            video = fetch_input(record.video)
            index = probe(video, limits)
            if len(index) >= tracks.stop:  # another one may lie there since
                return chosen(tracks, record.face or limits.face, video, index, limits).weights
    except ClipError:
        pass  # it went away
    speaking = set((record.face_tracks or "").split(","))
    return {track.id: np.ones(len(track)) for track in tracks.tracks if str(track.id) in speaking}


def _line(
    card: Image.Image, draw: ImageDraw.ImageDraw, top: int, track: Track, tracks: Tracks, weight: np.ndarray | None
) -> None:
    speaks = weight is not None
    if track.thumbnail:
        card.paste(Image.open(io.BytesIO(track.thumbnail)).resize((_FACE, _FACE)), (_MARGIN, top))
    draw.rectangle((_MARGIN - 1, top - 1, _MARGIN + _FACE, top + _FACE), outline=_SPEAKS if speaks else _EMPTY, width=3)
    left = _MARGIN + _FACE + 16
    draw_text(draw, (left, top + 6), f"face {track.id}", size=_TITLE, fill=_SPEAKS if speaks else _TEXT)
    turned = np.abs(track.turn[:, 0])
    facts = [f"{len(track)} frames", f"covered in {int(track.covered.sum())}" if track.covered.any() else ""]
    facts += [f"turned by up to {np.nanmax(turned):.0f}\u00b0" if np.isfinite(turned).any() else ""]
    for number, fact in enumerate(fact for fact in facts if fact):
        draw_text(draw, (left, top + 36 + 20 * number), fact, size=_BODY, fill=_QUIET)
    begin, width = _BAR
    draw.rectangle((begin, top + 34, begin + width, top + 62), fill=_EMPTY)
    state = np.zeros(tracks.stop, np.int8)
    state[track.rows] = np.where(track.covered, 2, 1)
    if weight is not None:
        state[track.rows[(weight > 0) & ~track.covered]] = 3
    edges = np.flatnonzero(np.diff(state)) + 1
    for run in np.split(np.arange(tracks.stop), edges):
        if kind := int(state[run[0]]):
            x0, x1 = (begin + width * frame / tracks.stop for frame in (run[0], run[-1] + 1))
            draw.rectangle((x0, top + 34, max(x1, x0 + 1), top + 62), fill=(_SEEN, _HIDDEN, _SPEAKS)[kind - 1])
