"""What an output folder holds: in numbers, pictures, a page. Works from the records and the files they name; prints nothing."""

from __future__ import annotations

from latentsync_ray.report.course import Course
from latentsync_ray.report.faces import faces_sheet
from latentsync_ray.report.numbers import Example, Failures, Language, OutOfSync, Report, SlowClip, summarise
from latentsync_ray.report.page import PAGES, write_page
from latentsync_ray.report.picture import FORMATS
from latentsync_ray.report.sheet import contact_sheet, draw_sheet

__all__ = [
    "FORMATS",
    "PAGES",
    "Course",
    "Example",
    "Failures",
    "Language",
    "OutOfSync",
    "Report",
    "SlowClip",
    "contact_sheet",
    "draw_sheet",
    "faces_sheet",
    "summarise",
    "write_page",
]
