"""The page: complete, self-contained, and safe whatever the table holds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from make_clips import write_clip

from latentsync_ray.errors import ConfigError
from latentsync_ray.records import Records
from latentsync_ray.records.files import encoded
from latentsync_ray.records.schema import RECORD_SCHEMA
from latentsync_ray.report import summarise, write_page
from latentsync_ray.types import ClipRecord

EVIL = "<script>alert(1)</script>\"'&"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """What is in a page; fails when tags are not closed in turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(self.source)
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))  # such as <line/>

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += f" {data}"


def record(clip_id: str, **known: object) -> ClipRecord:
    row = {"clip_id": clip_id, "video": "/none.mp4", "audio": "a", "status": "ok", "fps": 25.0, "loop_mode": "pingpong"}
    return ClipRecord.from_row({**row, **known})


def page_of(folder: Path, *records: ClipRecord) -> Page:
    with Records(str(folder / "out")) as table:
        for each in records:
            table.add(each)
    write_page(summarise(str(folder / "out")), folder / "new" / "report.html")
    return Page(folder / "new" / "report.html")


def failed(clip_id: str, **known: object) -> ClipRecord:
    return record(clip_id, status="failed", **{"error_code": "no_face", "error": f"about {clip_id}", **known})


@pytest.fixture
def film(tmp_path: Path) -> str:
    return str(write_clip(tmp_path / "film.mp4", np.full((20, 96, 160, 3), 90, np.uint8)))


def test_it_tells_all_there_is(tmp_path: Path, film: str) -> None:
    began = datetime(2026, 11, 28, 14, 59, 55, tzinfo=UTC)
    known = {"frames": 20, "duration": 0.8, "bytes": 2_000_000, "generate_seconds": 4.0, "output": film}
    page = page_of(
        tmp_path,
        record("anna", video=film, sync_score=0.25, sync_offset_ms=-40.0, language="de", finished_at=began, **known),
        record("bert", sync_score=0.5, finished_at=began + timedelta(seconds=50), **known),
        failed("carl", video=film, language="de", finished_at=began + timedelta(seconds=90)),
        *(failed(f"dora{number}", error_code="input_not_found") for number in range(5)),
    )
    for told in (
        "2 of 8 clips ok, 6 failed",
        "finished from 2026-11-28 14:59:55 UTC to 2026-11-28 15:01:25 UTC",
        "4.0 MB",
        "frames per minute",
        "input_not_found 5 clips tried again: by itself in the next run dora0 about dora0",
        "and 2 more",
        "no_face 1 clip tried again: with --retry failed carl (de) about carl",
        "anna (de) 0.25 at -40 ms, 20 frames",
        "language clips failed frames video not told 6 5 20 0.8 s de 2 1 20 0.8 s",
        "generate 8.0 s 5.0",
    ):
        assert told in page.text, told
    alternatives = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alternatives == ["a frame of carl", "anna before", "anna after", "bert after"], "what is gone has no picture"
    assert len(re.findall("<rect", page.source)) == 3, "two bars of frames and one of failures"


def test_it_needs_nothing_else(tmp_path: Path, film: str) -> None:
    page = page_of(tmp_path, record("anna", video=film, output=film, sync_score=0.1), failed("carl", video=film))
    addresses = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "srcset")
    ]
    assert len(addresses) == 3
    assert all(str(address).startswith("data:image/jpeg;base64,") for address in addresses)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    assert not re.search(r"https?:|@import|url\(", page.source)


def test_no_text_of_the_table_becomes_markup(tmp_path: Path, film: str) -> None:
    worked = {"generate_seconds": 1.0, "idle_seconds": 0.0, "card": EVIL}
    page = page_of(
        tmp_path,
        record(EVIL, video=film, output=film, sync_score=0.1, language=EVIL, **worked),
        failed(f"{EVIL}2", video=film, error_code=EVIL, error=EVIL),
    )
    assert "<script" not in page.source
    assert page.text.count("<script>alert(1)</script>\"'&") >= 6
    assert all(set(attributes) <= {"src", "alt"} for tag, attributes in page.tags if tag == "img")


def test_secrets_stay_out(tmp_path: Path) -> None:
    error = "https://user:SECRET@host/a.mp4?X-Amz-Signature=SECRET does not answer"
    page = page_of(tmp_path, failed("carl", video="https://***@host/a.mp4?***", error=error))
    assert "SECRET" not in page.source
    assert "host/a.mp4" in page.text


def test_it_can_be_made_of_very_little(tmp_path: Path) -> None:
    page = page_of(tmp_path, failed("carl", error=None))
    assert "0 of 1 clips ok, 1 failed" in page.text
    assert "Throughput" not in page.text
    assert "Least in sync" not in page.text


def test_a_table_of_an_earlier_version_will_do(tmp_path: Path) -> None:
    names = ["clip_id", "video", "audio", "status", "frames", "error_code", "error"]
    rows = [["a", "v", "a", "ok", 20, None, None], ["b", "v", "a", "failed", None, "no_face", "none"]]
    schema = pa.schema([RECORD_SCHEMA.field(name) for name in names])
    (tmp_path / "metadata").mkdir()
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema)
    (tmp_path / "metadata" / "old.parquet").write_bytes(encoded(table))
    write_page(summarise(str(tmp_path)), tmp_path / "page.html")
    assert "1 of 2 clips ok, 1 failed" in Page(tmp_path / "page.html").text


def test_many_rows_make_no_large_page(tmp_path: Path, film: str) -> None:
    count, languages, codes = 100_000, 50, 30
    number = np.arange(count)
    bad = number % 20 == 0
    table = pa.table(
        {
            "clip_id": [f"clip-{each}" for each in number],
            "video": [film] * count,
            "audio": ["a"] * count,
            "output": pa.array([film] * count, pa.string(), mask=bad),
            "status": np.where(bad, "failed", "ok"),
            "error_code": pa.array([f"code{each // 20 % codes}" for each in number], pa.string(), mask=~bad),
            "error": pa.array(["too long a story " * 200] * count, pa.string(), mask=~bad),
            "language": [f"x{each % languages}" for each in number],
            "frames": pa.array(number % 500, mask=bad),
            "sync_score": pa.array(np.sin(number), mask=bad),
            "generate_seconds": pa.array(np.cos(number) + 2, mask=bad),
            "finished_at": pa.array((1_764_000_000 + number) * 1_000_000, pa.timestamp("us", "UTC")),
        }
    )
    typed = table.cast(pa.schema([RECORD_SCHEMA.field(name) for name in table.column_names]))
    rows = pa.concat_tables([RECORD_SCHEMA.empty_table(), typed], promote_options="default")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "many.parquet").write_bytes(encoded(rows))
    write_page(summarise(str(tmp_path)), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "95,000 of 100,000 clips ok, 5,000 failed" in page.text
    assert "10 more codes are left out" in page.text
    assert "30 more languages are left out" in page.text
    assert len(page.source) < 300_000


def test_a_page_is_written_where_it_can_be(tmp_path: Path) -> None:
    with Records(str(tmp_path / "out")) as table:
        table.add(record("anna"))
    report = summarise(str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"name a file that ends in \.html"):
        write_page(report, tmp_path / "page.png")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write the page"):
        write_page(report, tmp_path / "file" / "page.html")
