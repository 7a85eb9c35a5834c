"""Which clips a sheet shows."""

from __future__ import annotations

import pyarrow as pa
import pytest

from latentsync_ray.report.choice import choose


def table(*rows: tuple[str, str | None, float | None]) -> pa.Table:
    """(clip_id, error_code, sync_score) of each clip."""
    names = ("clip_id", "status", "error_code", "sync_score")
    values = [(clip_id, "failed" if code else "ok", code, sync) for clip_id, code, sync in rows]
    types = (pa.string(), pa.string(), pa.string(), pa.float64())
    columns = zip(*values, strict=True)
    return pa.table({name: pa.array(column, kind) for name, column, kind in zip(names, columns, types, strict=True)})


def chosen(clips: pa.Table, rows: int) -> list[str]:
    return choose(clips, rows)["clip_id"].to_pylist()


OK = [(f"ok{number:02}", None, (number * 7 % 20) / 20) for number in range(20)]
"""Lowest first: ok00, ok03, ok06, ok09, ok12 ..."""
FAILED = [(f"bad{number}", code, None) for number, code in enumerate(["no_face"] * 3 + ["too_large"] + ["no_face"] + ["cut"])]


def test_failed_ones_come_first_one_of_each_error_in_turn() -> None:
    assert chosen(table(*OK, *FAILED), 12)[:4] == ["bad0", "bad3", "bad5", "bad1"], "a third of twelve"


def test_then_the_lowest_correlations_and_then_others_evenly_spread() -> None:
    assert chosen(table(*OK, *FAILED), 12)[4:] == ["ok00", "ok03", "ok06", "ok09", "ok01", "ok08", "ok14", "ok19"]


def test_clips_without_a_correlation_are_not_the_worst() -> None:
    clips = [("a", None, None), ("b", None, 0.9), ("c", None, None), ("d", None, 0.1)]
    assert chosen(table(*clips), 2) == ["d", "a"]
    assert chosen(table(*[(name, None, None) for name in "abcde"]), 3) == ["a", "c", "e"]


def test_the_order_of_the_table_does_not_matter() -> None:
    assert chosen(table(*reversed(FAILED), *reversed(OK)), 12) == chosen(table(*OK, *FAILED), 12)


@pytest.mark.parametrize(
    ("ok", "failed", "rows", "shown"), [(20, 6, 1, 1), (0, 6, 4, 4), (1, 6, 4, 4), (20, 0, 5, 5), (2, 1, 9, 3), (20, 6, 99, 26)]
)
def test_as_many_as_asked_for_or_there_are(ok: int, failed: int, rows: int, shown: int) -> None:
    ids = chosen(table(*OK[:ok], *FAILED[:failed]), rows)
    assert len(ids) == len(set(ids)) == shown
