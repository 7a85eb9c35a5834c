"""The report as one HTML page that needs nothing else: no network, no script, pictures within."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute
from PIL import Image

from latentsync_ray import __version__, redact
from latentsync_ray.errors import ClipError, ConfigError
from latentsync_ray.records import read_records
from latentsync_ray.report.charts import course_chart
from latentsync_ray.report.moments import moments_of
from latentsync_ray.report.numbers import Report
from latentsync_ray.types import ClipRecord

__all__ = ["PAGES", "write_page"]

PAGES = (".html", ".htm")
"""Endings of a page's name."""
_COLUMNS = ["clip_id", "status", "error_code", "error", "video", "audio", "output", "output_path"]
_COLUMNS += ["frames", "fps", "duration", "loop_mode"]
_MOST_CODES, _MOST_LANGUAGES = 20, 20
_PICTURED_CODES = 12
_LONGEST = 400
"""Characters of a message or name."""
_SIDE, _QUALITY = 240, 68
"""Of a picture, px at most and JPEG's quality: 4 to 10 kB."""

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Data URIs of a moment of the source and of the result; empty when there is none."""

    before: str = ""
    after: str = ""


def write_page(report: Report, page: Path) -> None:
    """Write ``report`` as an HTML page, with pictures of failed clips and of those that are least in sync.

    Their files are looked for where the records say, results in the output first; what is gone has no picture. Raises
    ConfigError when the page's name does not end in .html or it cannot be written.
    """
    if page.suffix.lower() not in PAGES:
        raise ConfigError(f"{page}: a page is HTML; name a file that ends in .html")
    failures = report.failures[:_MOST_CODES]
    clips = [each.examples[0].clip_id for each in failures[:_PICTURED_CODES] if each.examples]
    html = _template().render(
        report=report,
        output=redact.shown(report.output),
        version=__version__,
        chart=course_chart(report.course) if report.course and len(report.course.frames) > 1 else None,
        failures=failures,
        languages=report.languages[:_MOST_LANGUAGES],
        pictures=_pictures(report.output, [*clips, *(clip.clip_id for clip in report.least_in_sync)]),
        no_pictures=_Pictures(),
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


def _pictures(output: str, clip_ids: list[str]) -> dict[str, _Pictures]:
    """Clip -> its pictures, of those that have any."""
    table = read_records(output, columns=_COLUMNS)
    found = {}
    for row in table.filter(_pc.is_in(table["clip_id"], pa.array(clip_ids, pa.string()))).to_pylist():
        record = ClipRecord.from_row(row)
        try:
            for _, before, after in moments_of(record, output):
                found[record.clip_id] = _Pictures(_data_uri(before), _data_uri(after))
        except ClipError:
            continue  # its files have gone, or were never readable
    return found


def _data_uri(picture: np.ndarray | None) -> str:
    if picture is None:
        return ""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


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
