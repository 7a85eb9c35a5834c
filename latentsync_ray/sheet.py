"""The contact sheet: a picture with one row per clip, moments of the source beside the same moments of the result."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latentsync_ray.config import Recipe
from latentsync_ray.errors import ClipError, ConfigError
from latentsync_ray.media.decode import read_frames
from latentsync_ray.media.grid import frame_grid, repeat
from latentsync_ray.media.source import probe_video
from latentsync_ray.records import read_records
from latentsync_ray.storage import fetch
from latentsync_ray.types import ClipRecord

__all__ = ["contact_sheet"]

_WIDTH = 1600
_MARGIN, _GAP = 24, 12
_PICTURE_HEIGHT = 240
_HEADER_HEIGHT, _LINE_HEIGHT = 44, 26
_MOST_MOMENTS = 6
_BACKGROUND, _CARD, _EMPTY = "#15171c", "#20242c", "#2a2f39"
_TEXT, _QUIET, _GOOD, _BAD = "#f2f4f8", "#9aa4b2", "#5fd38d", "#ff7a76"

Frames = dict[int, np.ndarray]


def contact_sheet(output: str, png: Path, *, rows: int = 12) -> None:
    """Draw up to ``rows`` clips of ``output``, each with moments before and after, into a PNG ``_WIDTH`` px wide.

    At most a third of the rows shows failed clips, with their errors, as long as there are others. Raises ConfigError when there
    are no records.
    """
    table = read_records(output, columns=_COLUMNS).sort_by("clip_id")
    if len(table) == 0:
        raise ConfigError(f"{output} has no records: run a job with this output first")
    records = [ClipRecord.from_row(row) for row in table.to_pylist()]
    ok = [record for record in records if record.status == "ok"]
    failed = [record for record in records if record.status != "ok"]
    shown_failed = failed[: max(rows // 3, rows - len(ok))]
    cards = [_card(record) for record in [*ok[: rows - len(shown_failed)], *shown_failed]]
