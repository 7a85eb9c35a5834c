"""The page: complete, self-contained, and safe whatever the table holds."""

from __future__ import annotations

import base64
import hashlib
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
from latentsync_ray.report.worst import rankings
from latentsync_ray.types import ClipRecord

EVIL = "<script>alert(1)</script>\"'&"
VOID = {"meta", "img", "input"}


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
        if self.open and self.open[-1] not in ("style", "title", "script"):
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
    assert {"link", "iframe", "object", "video"}.isdisjoint(tag for tag, _ in page.tags)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    assert not re.search(r"https?:|@import|url\(", page.source)


def test_the_policy_allows_this_script_only(tmp_path: Path) -> None:
    source = page_of(tmp_path, failed("carl")).source
    script = source.split("<script>")[1].split("</script>")[0]
    told = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; media-src 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-{told}';"
        in source
    )


def test_no_text_of_the_table_becomes_markup(tmp_path: Path, film: str) -> None:
    worked = {"generate_seconds": 1.0, "idle_seconds": 0.0, "card": EVIL}
    page = page_of(
        tmp_path,
        record(EVIL, video=film, output=film, sync_score=0.1, language=EVIL, **worked),
        failed(f"{EVIL}2", video=film, error_code=EVIL, error=EVIL),
    )
    assert [page.source.count(each) for each in ("<script", "</script")] == [1, 1]
    clips = [attributes["data-clip"] for _, attributes in page.tags if "data-clip" in attributes]
    assert clips == [f"{EVIL}2", EVIL], "attributes hold ids as they are"
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
    assert "Review" not in page.text


def clips_of(page: Page) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in page.tags if tag == "figure"]


def test_the_worst_by_each_measure_and_their_moments(tmp_path: Path, film: str) -> None:
    known = {"video": film, "output": film, "frames": 20, "seed": 7}
    tried = [{"seed": seed, "passed": False} for seed in (2**63 - 2, 2**63 - 1)]
    page = page_of(
        tmp_path,
        record("anna", seam=5.25, seam_frame=18, sharpness=0.9, sharpness_frame=3, sync_correlation=0.5, **known),
        record("bert", seam=9.5, seam_frame=40, sharpness=0.2, status="ok_below_quality", **{**known, "attempts": tried}),
        *(record(f"cara{number}", seam=0.1 * number, **known) for number in range(9)),
        failed("dora", seam=99.0, sharpness=0.0),
        record("emil", sharpness=float("nan"), **known),
    )
    panels = [attributes["id"] for _, attributes in page.tags if attributes.get("role") == "tabpanel"]
    assert panels == ["by-seam", "by-sharpness", "by-sync_correlation"], "of measures that any clip has"
    clips = clips_of(page)
    order = ["bert", "anna", *(f"cara{number}" for number in range(8, 2, -1)), "bert", "anna", "anna"]
    assert [clip["data-clip"] for clip in clips] == order
    assert [(clip["data-flag"], clip["data-cue"]) for clip in clips[:2]] == [("1.6", "0.9"), ("0.72", "0.02")]
    assert [(clip["data-flag"], clip["data-cue"]) for clip in clips[8:]] == [("", "0"), ("0.12", "0"), ("", "0")]
    assert (clips[1]["data-seed"], clips[1]["data-next"]) == ("7", "8")
    assert (clips[0]["data-seed"], clips[0]["data-next"]) == (str(2**63 - 2), "0"), "one that no attempt had"
    assert "9.5 at 1.60 s (frame 40), 20 frames, 2 attempts below the job's quality" in page.text
    assert page.source.count("data:image/jpeg") == 2 * len(clips), "a frame beyond the end is the last"


def test_a_score_of_sync_takes_the_place_of_the_correlation() -> None:
    names = ["clip_id", "language", "status", "frames", "fps", "sync_correlation"]
    rows = pa.Table.from_pylist([dict(zip(names, ["a", None, "ok", 20, 25.0, 0.5], strict=True))])
    assert [each.measure for each in rankings(rows, 8)] == ["sync_correlation"]
    unknown = rows.append_column("sync_score", pa.array([None], pa.float64()))
    assert [each.measure for each in rankings(unknown, 8)] == ["sync_correlation"]
    known = rows.append_column("sync_score", pa.array([0.7]))
    assert [each.measure for each in rankings(known, 8)] == ["sync_score"]


def test_where_the_videos_are(tmp_path: Path, film: str) -> None:
    name = "it's 100% #1?: ü.mp4"
    (tmp_path / name).write_bytes(Path(film).read_bytes())
    (tmp_path / "out" / "clips").mkdir(parents=True)
    (tmp_path / "out" / "clips" / name).write_bytes(Path(film).read_bytes())
    known = {"seam": 1.0, "frames": 20, "output": "/moved/away.mp4", "output_path": f"clips/{name}"}
    page = page_of(
        tmp_path,
        record("a", video=str(tmp_path / name), **known),
        record("b", video="https://***@host/film.mp4", **known),
        record("c", video=f"file://{film}", **{**known, "output_path": "clips/none.mp4"}),
    )
    one, two, three = clips_of(page)
    quoted = "it%27s%20100%25%20%231%3F%3A%20%C3%BC.mp4"
    assert (one["data-source"], one["data-result"]) == (f"../{quoted}", f"../out/clips/{quoted}")
    assert (two["data-source"], two["data-result"]) == ("", one["data-result"])
    assert (three["data-source"], three["data-result"]) == ("../film.mp4", "")
    assert "the source cannot be played: its address is not kept" in page.text
    assert "the result is gone" in page.text


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
