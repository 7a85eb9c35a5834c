"""The report as one HTML page that needs no network: pictures within, videos where they are, and a script for both.

The script is the only one that the page's policy allows, and nothing of the table is in it.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2

from latentsync_ray import __version__, redact
from latentsync_ray.config import absolute
from latentsync_ray.errors import ConfigError
from latentsync_ray.report.charts import course_chart
from latentsync_ray.report.numbers import Report
from latentsync_ray.report.review import MEANINGS, Pictures, Seen, look_at

__all__ = ["PAGES", "write_page"]

PAGES = (".html", ".htm")
"""Endings of a page's name."""
_MOST_CODES, _MOST_LANGUAGES = 20, 20
_PICTURED_CODES = 12
_LONGEST = 400
"""Characters of a message or name."""
_LEAD = 0.7
"""Seconds before the flagged moment at which a clip begins to play: enough to see it come."""


def write_page(report: Report, page: Path) -> None:
    """Write ``report`` as an HTML page, with pictures of failed clips, and of those that are worst by each measure.

    These can be played where a browser finds their files on this machine, and all of them be marked for the next run. Files
    are looked for where the records say, results in the output first; what is gone has no picture. Raises ConfigError when
    the page's name does not end in .html or it cannot be written.
    """
    if page.suffix.lower() not in PAGES:
        raise ConfigError(f"{page}: a page is HTML; name a file that ends in .html")
    failures = report.failures[:_MOST_CODES]
    wanted: dict[str, set[int | None]] = {}
    for place, failure in enumerate(failures):
        for number, example in enumerate(failure.examples):
            wanted[example.clip_id] = {None} if number == 0 and place < _PICTURED_CODES else set()
    for ranking in report.worst:
        for clip in ranking.clips:
            wanted.setdefault(clip.clip_id, set()).add(clip.frame)
    script = Path(__file__).with_name("review.js").read_text(encoding="utf-8")
    html = _template().render(
        report=report,
        output=redact.shown(report.output),
        place=redact.shown(absolute(report.output)),
        version=__version__,
        chart=course_chart(report.course) if report.course and len(report.course.frames) > 1 else None,
        failures=failures,
        languages=report.languages[:_MOST_LANGUAGES],
        seen=look_at(report.output, wanted, page.parent),
        unseen=Seen(),
        no_pictures=Pictures(),
        meanings=MEANINGS,
        offsets={clip.clip_id: clip.sync_offset_ms for clip in report.least_in_sync},
        lead=_LEAD,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(html, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the page {page}: {error.strerror}; name another place for it") from error


def _template() -> jinja2.Template:
    surroundings = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    surroundings.filters |= {"number": "{:,}".format, "span": _span, "size": _size, "moment": _moment, "line": _line}
    return surroundings.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


def _span(seconds: float) -> str:
    """``12.3 s``, ``4.5 min``, ``1,234.5 h``."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _moment(time: Any) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _line(text: str) -> str:
    """All white space as single blanks, and no more of a text than is read."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
