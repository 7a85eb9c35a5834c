"""Columns of the manifest that the table cannot take."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentsync_ray.errors import ConfigError
from latentsync_ray.manifest import extra_columns, read_manifest
from latentsync_ray.records import Records, read_records
from latentsync_ray.records import carried as record_columns
from latentsync_ray.types import ClipRecord

BIG = pa.array([2**60 + 1])
LATE = pa.array([dt.datetime(9999, 1, 1)], pa.timestamp("s"))


def record(output: str, clip_id: str, mark: pa.Array) -> None:
    with Records(output, extra=pa.table({"clip_id": [clip_id], "mark": mark})) as table:
        table.add(ClipRecord(clip_id=clip_id, video="v.mp4", audio="a.wav", status="ok", output_path=f"clips/{clip_id}.mp4"))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (BIG, pa.array([1.5])),
        (pa.array([1.5]), BIG),
        (LATE, pa.array([dt.datetime(2026, 1, 1)], pa.timestamp("ns"))),
    ],
    ids=["in the table", "in the manifest", "times"],
)
def test_values_that_do_not_fit_the_common_type_are_refused_before_they_are_written(tmp_path, first, then):
    output = str(tmp_path)
    record(output, "a", first)
    with pytest.raises(ConfigError, match=r"do not go together.*'mark' as "):
        record(output, "b", then)
    assert read_records(output)["clip_id"].to_pylist() == ["a"]


def test_columns_are_read_only_where_their_type_changes(tmp_path, monkeypatch):
    output = str(tmp_path)
    record(output, "a", pa.array([1]))
    record(output, "b", pa.array([1.5]))
    assert sorted(read_records(output)["mark"].to_pylist()) == [1.0, 1.5]
    Records(output).compact()
    monkeypatch.setattr(record_columns, "read_all", None)
    record(output, "c", pa.array([2.5]))
    record(output, "d", pa.nulls(1))
    assert read_records(output).num_rows == 4


def test_types_that_parquet_does_not_know_are_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"'mark' is struct<>, which the table cannot hold"):
        record(str(tmp_path), "a", pa.array([{}]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view()], ids=str)
def test_views_are_carried(tmp_path, kind):
    row = {"clip_id": ["a"], "video": ["v.mp4"], "audio": ["a.wav"], "mark": pa.array(["x"]).cast(pa.binary()).cast(kind)}
    pq.write_table(pa.table(row), tmp_path / "p.parquet")
    mark = extra_columns(read_manifest(str(tmp_path / "p.parquet")))["mark"]
    record(str(tmp_path / "out"), "a", mark)
    assert read_records(tmp_path / "out")["mark"].to_pylist() == mark.to_pylist() != [None]
