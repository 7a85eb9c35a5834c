"""What an output folder holds, in numbers and in a picture. Works from the records and the files they name; prints nothing."""

from __future__ import annotations

from latentsync_ray.report.faces import faces_sheet
from latentsync_ray.report.numbers import Failures, Report, SlowClip, summarise
from latentsync_ray.report.picture import FORMATS
from latentsync_ray.report.sheet import contact_sheet, draw_sheet

__all__ = ["FORMATS", "Failures", "Report", "SlowClip", "contact_sheet", "draw_sheet", "faces_sheet", "summarise"]
