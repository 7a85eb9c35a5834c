from __future__ import annotations

import itertools
import json
import shutil
import threading
import tracemalloc
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from latentsync_ray import storage
from latentsync_ray.config import Recipe
from latentsync_ray.errors import ConfigError, InputNotFound, NoFace, StorageUnavailable
from latentsync_ray.layout import record_uri
from latentsync_ray.records import (
    RECORD_SCHEMA,
    Records,
    commit_pending,
    in_batches,
    ledger,
    lookup,
    read_records,
    rows_where,
    schema,
    writer,
)
from latentsync_ray.records import files as record_files
from latentsync_ray.records.schema import to_table
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.types import ClipRecord, Pair


def ok(clip_id: str, **known) -> ClipRecord:
    return ClipRecord.from_row({"clip_id": clip_id, "video": "v", "audio": "a", "status": "ok", "recipe": "r1", **known})


def failed(clip_id: str, code: str = "no_face", **known) -> ClipRecord:
    return ok(clip_id, status="failed", error_code=code, error="why", **known)


def ids(*names: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(names, pa.string())])


def codes(output: str) -> dict[str, str]:
    """clip_id -> error code, empty when it is dubbed, and no clip twice."""
    held = record_files.read_table(output, columns=["clip_id", "error_code"])[0].values()
    rows = [row for file in held for row in file.to_pylist()]
    assert len({row["clip_id"] for row in rows}) == len(rows)
    return {row["clip_id"]: row["error_code"] or "" for row in rows}


def done(table: Records) -> dict[str, str]:
    """What the driver knows: clip_id -> error code, empty when it is dubbed."""
    return {row["clip_id"]: row["code"] for row in table._finished._table.to_pylist()}


def left(table: Records, clip_ids: pa.ChunkedArray, *retry: str) -> list[int]:
    """The clips to make, as a run begins with them."""
    todo = table.left(clip_ids, retry=retry)
    table.reopen(clip_ids.take(todo))
    return todo.tolist()


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
    with Records(output) as table:
        table.add(ok("a"))
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
    monkeypatch.setattr(ledger.time, "monotonic", lambda: next(clock) * 10)
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
    assert codes(output) == {"a": "", "b": "", "c": ""}, "a failure takes no place of a finished clip"
    assert len(files(output)) == 3  # emptied files are gone


@pytest.fixture
def outage(monkeypatch):
    """``outage("write_bytes")``: this change of storage is done, and told to have failed; ``outage()``: all is well again."""
    real = {"write_bytes": storage.write_bytes, "delete": storage.delete}

    def away(name: str, *args, **options) -> None:
        real[name](*args, **options)
        raise StorageUnavailable("the bucket is away")

    def switch(*names: str) -> None:
        for name, action in real.items():
            for module in (ledger, writer):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, partial(away, name) if name in names else action)

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

    monkeypatch.setattr(record_files, "fetch", fetch)
    assert done(Records(output)) == {"a": "", "b": ""}
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
    assert left(Records(output), clips) == [0, 3]
    assert codes(output) == {"fine": "", "faceless": "no_face", "odd": "of_another_version"}  # unlucky's row is taken out
    table = Records(output)
    assert left(table, clips, "failed") == [0, 2, 3, 4]
    assert codes(output) == done(table) == {"fine": ""}


def test_another_recipe_is_refused(output):
    with Records(output, recipe="r1") as table:
        table.add(ok("a"))
        table.add(failed("b"))
    Records(output, recipe="r1")
    Records(output)
    with pytest.raises(ConfigError, match=r"another recipe \(r1, now r2\); choose another output folder .* mixed_recipes=true"):
        Records(output, recipe="r2")
    assert done(Records(output, recipe="r2", mixed_recipes=True)) == {"a": "", "b": "no_face"}


def test_another_recipe_tries_again_what_failed(output):
    with Records(output, recipe="r1") as table:
        table.add(ok("a"))
        table.add(failed("b"))
    clips = ids("a", "b")
    assert left(Records(output, recipe="r1", mixed_recipes=True), clips) == []
    with Records(output, recipe="r2", mixed_recipes=True) as table:
        assert left(table, clips) == [1]
        table.add(failed("b", recipe="r2"))
    assert left(Records(output, recipe="r2", mixed_recipes=True), clips) == []


def test_another_recipe_needs_no_leave_where_nothing_succeeded(output):
    with Records(output, recipe="r1") as table:
        table.add(failed("b"))
    assert left(Records(output, recipe="r2"), ids("b")) == [0]


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
    monkeypatch.setattr(writer, "MOST_ROWS", 10)
    with Records(output, every_rows=3) as table:
        for number in range(20):
            table.add(ok(f"c{number}"))
        assert len(files(output)) == 6
        table.compact()
    assert len(codes(output)) == 20
    sizes = [len(record_files.read_file(uri, output)) for uri in files(output)]
    assert sorted(sizes) == [2, 9, 9]
    before = files(output)
    Records(output).compact()
    assert files(output) == before


def test_a_reader_during_compaction_sees_no_clip_twice(output, monkeypatch):
    table = Records(output, every_rows=1)
    for name in "abc":
        table.add(ok(name))
    seen = []
    monkeypatch.setattr(writer, "delete", lambda uris, **_: seen.append((codes(output), len(files(output)))))
    table.compact()
    assert seen == [({"a": "", "b": "", "c": ""}, 4)]


def test_rows_that_two_runs_left_of_one_clip_become_one(output):
    at = partial(datetime, 2026, 1, 2, tzinfo=UTC)
    tables = [Records(output), Records(output)]  # neither knows of the other
    for hour, table in enumerate(tables):
        table.add(ok("twice", bytes=hour, finished_at=at(hour)))
        table.add([ok("luck", finished_at=at(3)), failed("luck", finished_at=at(4))][hour])
        table.add(failed("late", finished_at=at(9 - hour)))
        table.flush()
    table_before = read_records(output)
    table = read_records(output, columns=["bytes", "clip_id", "error_code"])
    assert table.column_names == ["bytes", "clip_id", "error_code"]
    rows = {row["clip_id"]: row for row in table.to_pylist()}
    assert len(table) == len(rows) == 3
    assert rows["twice"]["bytes"] == 1, "what was finished last is what lies under its name"
    assert rows["luck"]["error_code"] is None
    assert done(Records(output)) == codes(output) == {"twice": "", "luck": "", "late": "no_face"}
    assert read_records(output).sort_by("clip_id").equals(table_before.sort_by("clip_id")), "the same rows count as before"


def test_a_file_that_holds_a_clip_twice_is_repaired(output):
    rows = to_table([ok("a"), ok("a"), failed("b")])
    storage.write_bytes(f"{output}/metadata/merged-old-00000.parquet", record_files.encoded(rows))
    assert len(read_records(output)) == 2
    Records(output)
    assert codes(output) == {"a": "", "b": "no_face"}


def test_nothing_is_written_without_leave(output):
    def refuse() -> None:
        raise ConfigError("another took over")

    with pytest.raises(ConfigError, match="another took over"), Records(output, confirm=refuse) as table:
        table.add(ok("a"))
    with pytest.raises(ConfigError, match="another took over"):
        Records(output, confirm=refuse).compact()
    assert files(output) == []


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

    def counted_write(uri: str, data: bytes, **where) -> None:
        count()
        write(uri, data, **where)

    def counted_delete(uris, **where) -> None:
        for uri in uris:  # one by one: a kill may come between any two
            count()
            remove([uri], **where)

    for module in (writer, record_files):
        monkeypatch.setattr(module, "write_bytes", counted_write)
    for module in (ledger, writer):
        monkeypatch.setattr(module, "delete", counted_delete)

    def arm(changes: float) -> None:
        left[0] = changes

    return arm


def life(output: str, published: dict[str, int]) -> None:
    """One run: two failures of an earlier one are tried again (one for nothing), and five new clips are made."""
    table = Records(output, every_rows=2)
    names = ["f1", "f2", "a", "b", "c", "d", "e"]
    for index in left(table, ids(*names), "failed"):
        name = names[index]
        if name == "f1":
            table.add(failed(name))
            continue
        record = ok(name, frames=published.get(name, 0) + 1)
        commit_pending(output, record)
        published[name] = record.frames or 0
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
                assert rows[name]["error_code"] is None
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
    assert done(again) == codes(output) == expected
    left(again, ids("a"), "failed")
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
    assert done(Records(str(tmp_path))) == {"a": ""}


def test_what_others_put_beside_the_table_is_left_alone(tmp_path):
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "README.txt").write_text("mine")
    with Records(str(tmp_path)) as table:
        table.add(ok("a"))
    assert codes(str(tmp_path)) == {"a": ""}
    assert pq.read_table(tmp_path / "metadata" / files(str(tmp_path))[1]).num_rows == 1


# Outputs of version 0.1.0, which said "nothing" as 0 and empty text


@pytest.fixture
def old(golden: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(golden / "output-0.1.0", tmp_path / "out"))


def test_an_old_output_reads_as_a_new_one(old):
    rows = {row["clip_id"]: row for row in read_records(old).to_pylist()}
    assert sorted(rows) == ["bad", "gone", "good"]
    good, bad = rows["good"], rows["bad"]
    assert (good["error_code"], good["error"], good["corrupt_frames"], good["frames"]) == (None, None, 0, 60)
    assert good["finished_at"] == datetime(2026, 11, 26, 11, 45, 12, tzinfo=UTC)
    assert good["output_path"] == "clips/good.mp4"
    assert (good["speaker"], good["take"]) == ("anna", 7)
    nothing = {name for name, value in bad.items() if value is None}
    assert {"output", "frames", "duration", "width", "sha256", "plan_seconds", "seed"} <= nothing
    assert (bad["error_code"], bad["steps"], bad["speaker"]) == ("unreadable_video", 1, "ben")
    assert read_records(old, columns=["frames"])["frames"].to_pylist().count(None) == 2
    some = read_records(old, columns=["output_path", "clip_id"])
    assert some.column_names == ["output_path", "clip_id"]


def test_an_old_output_is_gone_on_with(old):
    extra = pa.table({"clip_id": ["good", "bad", "gone", "pending", "fresh"], "take": [1, 2, 3, 4, 5]})
    with Records(old, extra=extra, recipe="7595a91b9c3b40f8") as table:
        assert left(table, ids("good", "bad", "gone", "pending", "fresh")) == [2, 4]
        table.add(ok("fresh", recipe="7595a91b9c3b40f8"))
        table.compact()
    rows = {row["clip_id"]: row for row in read_records(old).to_pylist()}
    assert {clip_id: row["error_code"] for clip_id, row in rows.items()} == {
        "good": None,
        "bad": "unreadable_video",
        "pending": None,
        "fresh": None,
    }
    assert rows["pending"]["finished_at"] == rows["good"]["finished_at"]
    assert read_records(old).schema.field("finished_at").type == pa.timestamp("us", "UTC")
    assert len(files(old)) == 1


def test_columns_of_an_old_output_that_are_ours_now_keep_their_values(old):
    (path,) = (Path(old) / "metadata").iterdir()
    pq.write_table(pq.read_table(path).append_column("language", pa.array([1, 2, 3])), path)
    with Records(old, extra=pa.table({"clip_id": ["x"], "deinterlaced": ["by hand"]})) as now:
        now.add(ok("x", language="de"))
    rows = {row["clip_id"]: row for row in read_records(old).to_pylist()}
    assert {rows[name]["manifest_language"] for name in ("good", "bad", "gone")} == {1, 2, 3}
    assert (rows["x"]["language"], rows["x"]["manifest_deinterlaced"], rows["good"]["language"]) == ("de", "by hand", None)


# The same word for nothing everywhere


def test_former_names_of_columns_are_read_as_todays(output):
    row = ok("a", precision="cpu float32", generate_seconds=2.0, output="o", output_path="clips/a.mp4")
    table = to_table([row]).append_column("speaker", [["Anna"]])
    former = {"precision": "arithmetic", "generate_seconds": "sync_seconds"}
    table = table.rename_columns([former.get(name, name) for name in table.column_names])
    storage.write_bytes(f"{output}/metadata/part-old-00000.parquet", record_files.encoded(table))
    pending_row = {former.get(name, name): value for name, value in ok("b", precision="mps float16").to_json().items()}
    storage.write_bytes(record_uri(output, "b"), json.dumps(pending_row).encode())
    Records(output).compact()
    rows = {row["clip_id"]: row for row in read_records(output).to_pylist()}
    assert (rows["a"]["precision"], rows["a"]["generate_seconds"], rows["a"]["speaker"]) == ("cpu float32", 2.0, "Anna")
    assert rows["b"]["precision"] == "mps float16"
    assert not {"arithmetic", "sync_seconds"} & set(rows["a"])
    assert read_records(output, columns=["precision"]).column_names == ["precision"]


def test_a_users_column_with_a_name_of_today_is_kept_beside_a_former_one(output):
    table = to_table([ok("a", precision="cpu float32", output_path="clips/a.mp4")])
    former = {"precision": "arithmetic", "generate_seconds": "sync_seconds"}
    table = table.rename_columns([former.get(name, name) for name in table.column_names])
    table = table.append_column("precision", [["mine"]])
    storage.write_bytes(f"{output}/metadata/part-old-00000.parquet", record_files.encoded(table))
    (row,) = read_records(output).to_pylist()
    assert (row["precision"], row["manifest_precision"]) == ("cpu float32", "mine")


def test_nothing_is_null(output):
    with Records(output) as table:
        table.add(failed_record(Pair(clip_id="a", video="v", audio="a", seed=3), Recipe(), NoFace("nobody")))
    (row,) = read_records(output).to_pylist()
    filled = {name for name, value in row.items() if value is not None}
    asked = {"clip_id", "video", "audio", "seed", "steps", "cache_interval", "model", "detector", "recipe", "settings"}
    assert filled == asked | {"status", "error_code", "error", "version", "finished_at"}
    assert row["finished_at"].tzinfo is not None


def test_columns_with_our_names_are_carried_under_a_prefix(output):
    extra = pa.table({"clip_id": ["a"], "duration": [99.0], "fps": ["fast"], "speaker": ["anna"]})
    with Records(output, extra=extra) as table:
        table.add(ok("a", duration=2.0))
    (row,) = read_records(output).to_pylist()
    assert (row["duration"], row["manifest_duration"], row["manifest_fps"], row["speaker"]) == (2.0, 99.0, "fast", "anna")
    twice = pa.table({"clip_id": ["a"], "duration": [99.0], "manifest_duration": [1]})
    with pytest.raises(ConfigError, match=r"'manifest_duration'.*rename one"):
        Records(output, extra=twice)


def test_a_place_without_records_is_told(tmp_path):
    with pytest.raises(ConfigError, match="has no records: it is not the output of a job"):
        read_records(tmp_path)
    with pytest.raises(ConfigError, match="output is None; it must be a path or URI"):
        read_records(None)


def test_paths_are_taken(output, tmp_path):
    with Records(str(tmp_path)) as table:
        table.add(ok("a"))
    assert read_records(tmp_path).num_rows == 1


def test_a_finished_row_is_no_python_object(tmp_path):
    folder = tmp_path / "metadata"
    folder.mkdir()
    clip_ids = [f"clip-{number:07d}" for number in range(200_000)]
    table = pa.table({"clip_id": clip_ids, "status": ["ok"] * len(clip_ids), "recipe": ["r1"] * len(clip_ids)})
    table = table.append_column("error_code", pa.nulls(len(clip_ids), pa.string()))
    pq.write_table(table, folder / "merged-x-00000.parquet")
    wanted = pa.chunked_array([[*clip_ids, "new"]])
    del table, clip_ids
    tracemalloc.start()
    todo = left(Records(str(tmp_path), recipe="r1"), wanted)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert todo == [200_000]
    assert peak < 5_000_000, "bytes; 25 a row"


# A look while another run is at work


def test_files_that_are_merged_while_they_are_read_are_found_again(output, monkeypatch):
    with Records(output, every_rows=1) as table:
        for name in "abc":
            table.add(ok(name))
    merging = [table]

    def fetch(uri: str) -> Path:
        monkeypatch.setattr(record_files, "fetch", storage.fetch)
        if merging:
            merging.pop().compact()
        return storage.fetch(uri)

    monkeypatch.setattr(record_files, "fetch", fetch)
    monkeypatch.setattr(record_files, "_READERS", 1)
    assert done(Records(output, read_only=True)) == {"a": "", "b": "", "c": ""}
    assert len(files(output)) == 1


@pytest.mark.parametrize("reader", ["read_records", "rows_where", "in_batches"])
def test_all_readers_find_merged_files_again(output, monkeypatch, reader):
    with Records(output, every_rows=1) as table:
        for name in "abc":
            table.add(ok(name, output_path=f"clips/{name}.mp4"))

    def fetch(uri: str) -> Path:
        monkeypatch.setattr(record_files, "fetch", storage.fetch)
        table.compact()
        return storage.fetch(uri)

    monkeypatch.setattr(record_files, "fetch", fetch)
    monkeypatch.setattr(record_files, "_READERS", 1)
    rows = {
        "read_records": lambda: read_records(output),
        "rows_where": lambda: rows_where(output, "output_path", ids("clips/b.mp4"), []),
        "in_batches": lambda: pa.concat_tables(in_batches(output, ["clip_id"])),
    }[reader]()
    assert set(rows["clip_id"].to_pylist()) == ({"b"} if reader == "rows_where" else set("abc"))


def test_a_pending_record_that_moves_to_the_table_meanwhile_is_seen_there(output, monkeypatch):
    commit_pending(output, ok("a"))
    real = record_files.read_bytes

    def read(uri: str) -> bytes:
        monkeypatch.setattr(record_files, "read_bytes", real)
        Records(output)
        return real(uri)

    monkeypatch.setattr(record_files, "read_bytes", read)
    assert done(Records(output, read_only=True)) == {"a": ""}


def test_files_that_always_vanish_are_told(output, monkeypatch):
    with Records(output) as table:
        table.add(ok("a"))

    def gone(uri: str) -> Path:
        raise InputNotFound("gone")

    monkeypatch.setattr(record_files, "fetch", gone)
    with pytest.raises(InputNotFound, match="vanish faster than they can be read"):
        read_records(output)
    with pytest.raises(InputNotFound):
        list(in_batches(output, ["clip_id"]))


# What a new row takes the place of


def test_the_former_file_of_a_clip_goes_when_its_record_is_taken_over(tmp_path):
    output, at = str(tmp_path), partial(datetime, 2026, 1, 2, tzinfo=UTC)
    for name in ("anna", "ben", "moved"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / f"{name}.mp4").write_text(name)
    with Records(output) as table:
        table.add(ok("anna", output_path="clips/anna.mp4", finished_at=at(1)))
        table.add(ok("other", output_path="clips/anna.mp4", finished_at=at(1)))
        table.add(ok("ben", output_path="clips/ben.mp4", finished_at=at(1)))
    for name in ("anna", "ben"):  # as a run leaves them that was killed then
        commit_pending(output, ok(name, output_path=f"clips/{name}-new.mp4", finished_at=at(2)))
    Records(output)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["anna.mp4", "moved.mp4"], "anna's is another's too"
    rows = {row["clip_id"]: row["output_path"] for row in read_records(output).to_pylist()}
    assert rows == {"anna": "clips/anna-new.mp4", "ben": "clips/ben-new.mp4", "other": "clips/anna.mp4"}


def test_a_pending_record_is_newer_than_the_row_whatever_clocks_say(output):
    at = partial(datetime, 2026, 1, tzinfo=UTC)
    with Records(output) as table:
        table.add(ok("a", seed=1, sha256="1", finished_at=None))
    for seed, when in ((2, at(2)), (3, at(1)), (4, None)):
        commit_pending(output, ok("a", seed=seed, sha256=str(seed), finished_at=when))
        Records(output)
        assert read_records(output)["seed"].to_pylist() == [seed]
    before = files(output)
    commit_pending(output, failed("a", finished_at=at(4)))
    Records(output)
    commit_pending(output, ok("a", seed=4, sha256="4", finished_at=None))  # the row's own: left by a kill
    Records(output)
    assert (files(output), pending(output)) == (before, [])


def test_a_former_file_is_gone_before_its_row(tmp_path, kill):
    (tmp_path / "clips").mkdir()
    for step in range(4):
        output = str(tmp_path / f"out{step}")
        file = Path(output, "clips", "a.mp4")
        file.parent.mkdir(parents=True)
        file.write_text("a")
        with Records(output) as table:
            table.add(ok("a", output_path="clips/a.mp4", finished_at=datetime(2026, 1, 1, tzinfo=UTC)))
        commit_pending(output, ok("a", output_path="clips/b.mp4", finished_at=datetime(2026, 1, 2, tzinfo=UTC)))
        kill(step)
        with pytest.raises(Killed):
            Records(output)
        kill(float("inf"))
        Records(output)
        assert not file.exists()
        assert [row["output_path"] for row in read_records(output).to_pylist()] == ["clips/b.mp4"]


def test_where_writing_takes_long_it_is_done_less_often(output, monkeypatch):
    table = Records(output, every_rows=1)
    table._flush_seconds = 60.0
    monkeypatch.setattr(ledger, "_MOST_WAITING", 4)
    for number in range(3):
        table.add(ok(f"c{number}"))
    assert files(output) == []
    table.add(ok("c3"))
    assert len(codes(output)) == 4
    table._flush_seconds = 60.0
    table._flushed_at -= 20 * 60
    table.add(ok("c4"))
    assert len(codes(output)) == 5


def test_the_look_up_table_is_made_of_the_smaller_side(output, monkeypatch):
    with Records(output) as table:
        for name in "abc":
            table.add(ok(name))
    many = ids(*(f"n{number}" for number in range(1000)), "b")
    made_of: list[int] = []

    def hashed(name: str, values: pa.ChunkedArray, of: pa.ChunkedArray) -> pa.Array:
        made_of.append(len(of))
        return getattr(pyarrow.compute, name)(values, of)

    counting = SimpleNamespace(is_in=partial(hashed, "is_in"), index_in=partial(hashed, "index_in"))
    monkeypatch.setattr(lookup, "_pc", counting)
    assert rows_where(output, "clip_id", many, [])["clip_id"].to_pylist() == ["b"]
    assert max(made_of) <= 3
    assert lookup.among(ids("x", "b", "b"), ids("b")).to_pylist() == [False, True, True]


def test_what_is_taken_in_pieces_is_taken_whole(monkeypatch):
    monkeypatch.setattr(lookup, "_TAKEN_AT_ONCE", 2)
    column = pa.chunked_array([["a", "b"], ["c"]])
    places = pa.chunked_array([[2, None, 0], [1]], pa.int32())
    assert lookup.taken(column, places).to_pylist() == ["c", None, "a", "b"]
    assert lookup.taken(column, pa.array([0])).type == pa.string()
    assert lookup.taken(pa.chunked_array([], pa.int64()), pa.array([], pa.int32())).to_pylist() == []


# Columns that became ours


@pytest.mark.parametrize("name", ["settings", "video_version", "audio_sha256"])
def test_a_users_column_that_is_ours_now_is_carried(output, name):
    ours = ("video_version", "audio_version", "video_sha256", "audio_sha256", "settings")
    former = to_table([ok("a", output_path="clips/a.mp4", frames=5)]).drop_columns(list(ours)).append_column(name, [["mine"]])
    storage.write_bytes(f"{output}/metadata/part-old-00000.parquet", record_files.encoded(former))
    assert next(in_batches(output, ["clip_id", *ours])).to_pylist() == [{"clip_id": "a", **dict.fromkeys(ours)}]
    (row,) = read_records(output).to_pylist()
    assert (row[name], row[f"manifest_{name}"], row["frames"]) == (None, "mine", 5)
    with Records(output, extra=pa.table({"clip_id": ["b"], name: ["too"]})) as table:
        table.add(ok("b", **{name: "ours"}))
        table.compact()
    rows = {row["clip_id"]: (row[name], row[f"manifest_{name}"]) for row in read_records(output).to_pylist()}
    assert rows == {"a": (None, "mine"), "b": ("ours", "too")}


@pytest.mark.parametrize("name", ["identity", "seam_frame", "frames_covered"])
def test_so_are_users_columns_that_are_measures_now(output, name):
    former = to_table([ok("a", frames=5)]).drop_columns(sorted(schema._QUALITY)).append_column(name, [["mine"]])
    storage.write_bytes(f"{output}/metadata/part-old-00000.parquet", record_files.encoded(former))
    (row,) = read_records(output).to_pylist()
    assert (row[name], row[f"manifest_{name}"], row["frames"]) == (None, "mine", 5)


def test_columns_of_an_old_output_that_came_later_are_the_users(old):
    (path,) = (Path(old) / "metadata").iterdir()
    table = pq.read_table(path)
    for name in ("settings", "card", "face"):
        table = table.append_column(name, pa.array([f"my {name}"] * 3))
    pq.write_table(table, path)
    for row in read_records(old).to_pylist():
        for name in ("settings", "card", "face"):
            assert (row[name], row[f"manifest_{name}"]) == (None, f"my {name}")
