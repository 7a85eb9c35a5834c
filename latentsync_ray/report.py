"""What an output folder holds: counts, errors, times, and a picture of before and after.

Works from the records alone and from the files they name; prints nothing. The numbers are plain data for whoever shows them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latentsync_ray.config import Recipe
from latentsync_ray.errors import CLIP_ERRORS, ClipError, ConfigError
from latentsync_ray.media.decode import read_frames
from latentsync_ray.media.grid import frame_grid, repeat
from latentsync_ray.media.source import probe_video
from latentsync_ray.records import RECORD_SCHEMA, read_records
from latentsync_ray.storage import fetch

__all__ = ["Failures", "Moments", "Report", "SlowClip", "contact_sheet", "summarise", "two_moments"]
