from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import fields
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentsync_ray import records as room
from latentsync_ray import storage
from latentsync_ray.errors import ConfigError, StorageUnavailable
from latentsync_ray.records import RECORD_SCHEMA, Records, commit_pending, read_records
from latentsync_ray.types import ClipRecord


def ok(clip_id: str, **known) -> ClipRecord:
    return ClipRecord.from_row({"clip_id": clip_id, "video": "v", "audio": "a", "status": "ok", "recipe": "r1", **known})


def failed(clip_id: str, code: str = "no_face", **known) -> ClipRecord:
    return ok(clip_id, status="failed", error_code=code, error="why", **known)


def ids(*names: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(names, pa.string())])


def codes(output: str) -> dict[str, str]:
    """clip_id -> error code, and no clip twice."""
    table = read_records(output, columns=["clip_id", "error_code"])
    counted = Counter(table["clip_id"].to_pylist())
    assert not [clip_id for clip_id, count in counted.items() if count > 1]
    return dict(zip(table["clip_id"].to_pylist(), table["error_code"].to_pylist(), strict=True))


def files(output: str) -> list[str]:
    return storage.list_files(f"{output}/metadata")


def pending(output: str) -> list[str]:
    return storage.list_files(f"{output}/_work/records")


# What is in the table


def test_the_schema_is_the_record(output):
    assert RECORD_SCHEMA.names == [field.name for field in fields(ClipRecord)]
    assert {
        name: str(RECORD_SCHEMA.field(name).type) for name in ("clip_id", "status", "frames", "fps", "seed", "loop_mode")
    } == {
        "clip_id": "string",
        "status": "string",
        "frames": "int64",
        "fps": "double",
        "seed": "int64",
        "loop_mode": "string",
    }
    assert read_records(output).schema == RECORD_SCHEMA


def test_what_goes_in_comes_out(output):
    record = ok("a", fps=29.97, frames=100, seed=None, guidance_scale=1.5, sha256="ab", loop_mode="loop")
    with Records(output) as table:
        table.add(record)
        table.add(failed("b"))
    rows = {row["clip_id"]: ClipRecord.from_row(row) for row in read_records(output).to_pylist()}
    assert repr(rows["a"]) == repr(record)
    assert rows["b"].error == "why"


def test_extra_columns_keep_their_types(output):
    extra = pa.table({"clip_id": ["b", "a"], "score": pa.array([0.5, 0.25], pa.float32()), "tags": [["x"], ["y", "z"]]})
    with Records(output, extra=extra) as table:
        for clip_id in ("a", "b", "stranger"):
            table.add(ok(clip_id))
    found = read_records(output)
    assert found.schema.field("score").type == pa.float32()
    assert [(row["clip_id"], row["score"], row["tags"]) for row in found.to_pylist()] == [
        ("a", 0.25, ["y", "z"]),
        ("b", 0.5, ["x"]),
        ("stranger", None, None),
    ]


def test_extra_columns_may_come_later_but_not_change_type(output):
    with Records(output) as table:
        table.add(ok("a"))
    with Records(output, extra=pa.table({"clip_id": ["b"], "take": [3]})) as table:
        table.add(ok("b"))
        table.compact()
    assert dict(zip(*read_records(output, columns=["clip_id", "take"]).to_pydict().values(), strict=True)) == {
        "a": None,
        "b": 3,
    }
    with pytest.raises(ConfigError, match="rename the column"):
        Records(output, extra=pa.table({"clip_id": ["c"], "take": ["three"]}))


def test_rows_are_written_by_number_and_by_time(output, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(room.time, "monotonic", lambda: next(clock) * 10)
    table = Records(output, every_rows=2, every_seconds=1e9)
    for name in "abc":
        table.add(ok(name))
    assert sorted(codes(output)) == ["a", "b"]
    table = Records(output, every_rows=99, every_seconds=15)
    table.add(ok("d"))
    assert "d" not in codes(output)
    table.add(ok("e"))
    assert {"d", "e"} <= set(codes(output))
    assert all(uri.rsplit("/", 1)[1].startswith("part-") for uri in files(output))


def test_adding_a_clip_again_replaces_its_row(output):
    with Records(output, every_rows=1) as table:
        for record in (failed("a"), ok("b"), ok("a"), failed("b")):
            table.add(record)
    with Records(output) as table:
        table.add(failed("c"))
        table.add(ok("c"))
    assert codes(output) == {"a": "", "b": "no_face", "c": ""}
    assert len(files(output)) == 3  # emptied files are gone


@pytest.fixture
def outage(monkeypatch):
    """``outage("write_bytes")``: this change of storage is done, and told to have failed; ``outage()``: all is well again."""
    real = {"write_bytes": storage.write_bytes, "delete": storage.delete}

    def away(name: str, *args) -> None:
        real[name](*args)
        raise StorageUnavailable("the bucket is away")

    def switch(*names: str) -> None:
        for name, action in real.items():
            monkeypatch.setattr(room, name, partial(away, name) if name in names else action)

    return switch


@pytest.mark.parametrize("fails", ["write_bytes", "delete"])
def test_an_outage_does_not_end_the_run_and_doubles_nothing(output, outage, caplog, fails):
    table = Records(output, every_rows=2)
    for name in "abcd":
        commit_pending(output, ok(name))
    outage(fails)
    for record in (ok("a"), failed("b"), ok("c")):
        table.add(record)
    assert caplog.text.count("the bucket is away") == 1, "not tried again with every row"
    outage()
    table.add(ok("b"))
    table.add(ok("d"))
    table.flush()
    assert codes(output) == {"a": "", "b": "", "c": "", "d": ""}
    assert pending(output) == []


def test_leaving_during_an_outage_raises(output, outage):
    with pytest.raises(StorageUnavailable), Records(output) as table:  # noqa: PT012
        table.add(ok("a"))
        outage("write_bytes")


def test_files_are_read_once_each_and_together(output, monkeypatch):
    for name in "ab":
        with Records(output) as table:
            table.add(ok(name))
    read, together = [], threading.Barrier(2, timeout=60)

    def fetch(uri: str) -> Path:
        together.wait()
        read.append(uri)
        return storage.fetch(uri)

    monkeypatch.setattr(room, "fetch", fetch)
    assert Records(output).done == {"a": "", "b": ""}
    assert sorted(read) == files(output)
    assert set(codes(output)) == {"a", "b"}
    assert len(read) == 4


def test_much_to_read_is_noted(output):
    noted: list[str] = []
    with Records(output, every_rows=1) as table:
        for number in range(6):
            table.add(ok(f"c{number}"))
            Records(output, note=noted.append)
    assert noted == ["reading the records of earlier runs, 6 files"]


# What is left to do


def test_left(output):
    with Records(output) as table:
        for record in (ok("fine"), failed("faceless"), failed("unlucky", "worker_died"), failed("odd", "of_another_version")):
            table.add(record)
    clips = ids("new", "fine", "faceless", "unlucky", "odd")
    assert Records(output).left(clips) == [0, 3]
    assert codes(output) == {"fine": "", "faceless": "no_face", "odd": "of_another_version"}  # unlucky's row is taken out
    table = Records(output)
    assert table.left(clips, retry_failed=True) == [0, 2, 3, 4]
    assert codes(output) == table.done == {"fine": ""}


def test_another_recipe_is_refused(output):
    with Records(output, recipe="r1") as table:
        table.add(ok("a"))
        table.add(failed("b"))
    Records(output, recipe="r1")
    Records(output)
    with pytest.raises(ConfigError, match=r"another recipe \(r1, now r2\); choose another output folder .* mixed_recipes=true"):
        Records(output, recipe="r2")
    assert Records(output, recipe="r2", mixed_recipes=True).done == {"a": "", "b": "no_face"}


def test_another_recipe_tries_again_what_failed(output):
    with Records(output, recipe="r1") as table:
        table.add(ok("a"))
        table.add(failed("b"))
    clips = ids("a", "b")
    assert Records(output, recipe="r1", mixed_recipes=True).left(clips) == []
    with Records(output, recipe="r2", mixed_recipes=True) as table:
        assert table.left(clips) == [1]
        table.add(failed("b", recipe="r2"))
    assert Records(output, recipe="r2", mixed_recipes=True).left(clips) == []


def test_another_recipe_needs_no_leave_where_nothing_succeeded(output):
    with Records(output, recipe="r1") as table:
        table.add(failed("b"))
    assert Records(output, recipe="r2").left(ids("b")) == [0]


def test_another_recipe_s_pending_records_are_refused(output):
    commit_pending(output, ok("a"))
    with pytest.raises(ConfigError, match="another recipe"):
        Records(output, recipe="r2")
    assert len(pending(output)) == 1


def test_a_file_that_is_not_parquet(output):
    storage.write_bytes(f"{output}/metadata/part-x.parquet", b"half")
    with pytest.raises(ConfigError, match=r"part-x\.parquet is not a readable Parquet file"):
        Records(output)


# Compaction


def test_compact(output, monkeypatch):
    monkeypatch.setattr(room, "_COMPACT_ROWS", 10)
    with Records(output, every_rows=3) as table:
        for number in range(20):
            table.add(ok(f"c{number}"))
        assert len(files(output)) == 6
        table.compact()
    assert len(codes(output)) == 20
    sizes = [len(room._read(uri)) for uri in files(output)]
    assert sorted(sizes) == [2, 9, 9]
    before = files(output)
    Records(output).compact()
    assert files(output) == before


def test_a_reader_during_compaction_sees_no_clip_twice(output, monkeypatch):
    table = Records(output, every_rows=1)
    for name in "abc":
        table.add(ok(name))
    seen = []
    monkeypatch.setattr(room, "delete", lambda uris: seen.append((codes(output), len(files(output)))))
    table.compact()
    assert seen == [({"a": "", "b": "", "c": ""}, 4)]


# Crashes


class Killed(BaseException):
    pass


@pytest.fixture
def kill(monkeypatch):
    """``kill(n)``: the n-th change of storage from now on, and all after it, do not happen any more."""
    write, remove = storage.write_bytes, storage.delete
    left: list[float] = [float("inf")]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    def counted_write(uri: str, data: bytes) -> None:
        count()
        write(uri, data)

    def counted_delete(uris) -> None:
        for uri in uris:  # one by one: a kill may come between any two
            count()
            remove([uri])

    monkeypatch.setattr(room, "write_bytes", counted_write)
    monkeypatch.setattr(room, "delete", counted_delete)

    def arm(changes: float) -> None:
        left[0] = changes

    return arm


def life(output: str, published: dict[str, int]) -> None:
    """One run: two failures of an earlier one are tried again (one for nothing), and five new clips are made."""
    table = Records(output, every_rows=2)
    names = ["f1", "f2", "a", "b", "c", "d", "e"]
    for index in table.left(ids(*names), retry_failed=True):
        name = names[index]
        if name == "f1":
            table.add(failed(name))
            continue
        record = ok(name, frames=published.get(name, 0) + 1)
        commit_pending(output, record)
        published[name] = record.frames
        table.add(record)
    table.compact()


def test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(tmp_path, kill):
    survived = 0
    for step in itertools.count():
        output, published = str(tmp_path / f"out{step}"), {}
        with Records(output) as table:
            table.add(failed("f1"))
            table.add(failed("f2", "worker_died"))
            table.add(ok("old"))
        for _ in range(3):  # killed at the same point again and again
            kill(step)
            try:
                life(output, published)
                finished = True
            except Killed:
                finished = False
            kill(float("inf"))
            codes(output)  # asserts that no reader sees a clip twice
            Records(output)
            rows = {row["clip_id"]: row for row in read_records(output).to_pylist()}
            codes(output)
            assert "old" in rows
            for name, version in published.items():
                assert rows[name]["frames"] == version == 1, "a finished clip was lost or made again"
                assert rows[name]["error_code"] == ""
            assert pending(output) == []
        life(output, published)
        assert set(codes(output)) == {"old", "f1", "f2", "a", "b", "c", "d", "e"}
        survived += not finished
        if step > 5 and finished:
            break
    assert survived > 5


@pytest.mark.parametrize("step", range(8))
def test_a_kill_during_compaction(tmp_path, kill, step):
    output = str(tmp_path)
    table = Records(output, every_rows=1)
    for name in "abcde":
        table.add(ok(name))
    expected = dict.fromkeys("abcde", "")
    kill(step)
    try:
        table.compact()
        assert step >= 6
    except Killed:
        assert step < 6  # one write and five removals
    kill(float("inf"))
    assert codes(output) == expected
    again = Records(output)
    assert again.done == codes(output) == expected
    again.left(ids("a"), retry_failed=True)
    again.compact()
    assert codes(output) == expected
    assert len(files(output)) == 1


def test_a_late_worker_does_not_double_its_clip(output):
    with Records(output) as table:
        table.add(ok("a"))
        table.add(failed("b", "worker_died"))
    commit_pending(output, ok("a"))  # came after the driver had removed it
    commit_pending(output, ok("b"))  # was thought dead
    Records(output)
    assert codes(output) == {"a": "", "b": ""}
    assert pending(output) == []


def test_leftover_drafts_are_no_records(tmp_path):
    commit_pending(str(tmp_path), ok("a"))
    (tmp_path / "_work" / "records" / ".b.json.1234.tmp").write_bytes(b"{")
    assert Records(str(tmp_path)).done == {"a": ""}


def test_what_others_put_beside_the_table_is_left_alone(tmp_path):
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "README.txt").write_text("mine")
    with Records(str(tmp_path)) as table:
        table.add(ok("a"))
    assert codes(str(tmp_path)) == {"a": ""}
    assert pq.read_table(tmp_path / "metadata" / files(str(tmp_path))[1]).num_rows == 1
