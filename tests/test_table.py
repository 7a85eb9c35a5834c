"""The table in folders by a column, and as pandas, DuckDB, Polars and pyarrow read it."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from latentsync_ray import Cluster, Job, Pair, Recipe, forecast, read_records, run, storage
from latentsync_ray.errors import ConfigError
from latentsync_ray.layout import partition, partition_of
from latentsync_ray.recipe import own_settings
from latentsync_ray.records import Records, commit_pending, files, ledger, writer
from latentsync_ray.records.partition import split
from latentsync_ray.stages.failures import sources
from latentsync_ray.types import ClipRecord

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LANGUAGES = {"a": "de", "b": "pt-BR", "c": "de", "d": "x/y=z é", "e": None}


def ok(clip_id: str, **known: Any) -> ClipRecord:
    row = {"clip_id": clip_id, "video": "v", "audio": "a", "status": "ok", "recipe": "r1", "finished_at": AT}
    return ClipRecord.from_row({**row, "output_path": f"clips/{clip_id}.mp4", "frames": 5, **known})


def extra(*clip_ids: str) -> pa.Table:
    return pa.table({"clip_id": clip_ids, "tags": [["x", clip_id] for clip_id in clip_ids], "take": [1] * len(clip_ids)})


def written(output: str, languages: dict[str, str | None] = LANGUAGES, **options: Any) -> None:
    """A table of these clips, a file for each."""
    with Records(output, extra=extra(*languages), every_rows=1, **options) as table:
        for clip_id, language in languages.items():
            table.add(ok(clip_id, language=language))


def places(output: str) -> Counter[str]:
    """Folder -> files."""
    names = (uri.removeprefix(f"{output}/metadata/") for uri in files.metadata_files(output))
    return Counter(name.rpartition("/")[0] for name in names)


def languages(output: str) -> dict[str, str | None]:
    """By the table; no clip twice in the files."""
    rows = [row for table in files.read_table(output, columns=["clip_id", "language"])[0].values() for row in table.to_pylist()]
    assert len({row["clip_id"] for row in rows}) == len(rows)
    return {row["clip_id"]: row["language"] for row in rows}


NOTHING = "language=__HIVE_DEFAULT_PARTITION__"


# Where rows lie


def test_rows_lie_in_folders_by_a_column(output: str) -> None:
    written(output, partition_by=["language"])
    assert places(output) == {"language=de": 2, "language=pt-BR": 1, "language=x%2Fy%3Dz%20%C3%A9": 1, NOTHING: 1}
    assert languages(output) == LANGUAGES
    table = read_records(output)
    assert table.column_names[:3] == ["clip_id", "error_code", "error"]
    assert table.schema.field("language").type == pa.string()
    assert table.column_names[-2:] == ["tags", "take"]
    assert read_records(output, columns=["language"]).column_names == ["language"]
    for uri in files.metadata_files(output):
        assert "language" not in pq.read_schema(storage.fetch(uri)).names


def test_several_columns_and_those_of_the_manifest(output: str) -> None:
    shows = pa.table({"clip_id": list("abc"), "show": ["news", "", "news"], "notes": ["1", "2", "3"]})
    with Records(output, extra=shows, partition_by=["show", "status"]) as table:
        for record in (ok("a"), ok("b"), ok("c", status="failed", error_code="no_face", output_path=None)):
            table.add(record)
    assert set(places(output)) == {
        "show=news/status=ok",
        "show=news/status=failed",
        "show=__HIVE_DEFAULT_PARTITION__/status=ok",
    }
    rows = {row["clip_id"]: (row["show"], row["status"], row["notes"]) for row in read_records(output).to_pylist()}
    assert rows == {"a": ("news", "ok", "1"), "b": (None, "ok", "2"), "c": ("news", "failed", "3")}
    again = Records(output, extra=shows, partition_by=["show", "status"])
    assert again.left(pa.chunked_array([["a", "b", "c", "d"]])).tolist() == [3]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("clip_id", "'clip_id' has a value of its own for each clip or is no text; use language, .*, show"),
        ("frames", "no text"),
        ("nothing", "'nothing' is no such column"),
        ("take", "'take' holds int64; only columns of text make folders"),
        ("many", "'many' has 1001 values, each of which gets a folder; at most 1000"),
    ],
)
def test_columns_that_make_no_folders_are_refused(output: str, name: str, why: str) -> None:
    ids = [f"c{number}" for number in range(1001)]
    table = pa.table({"clip_id": ids, "take": range(1001), "many": ids, "show": ["news"] * 1001})
    with pytest.raises(ConfigError, match=f"partition_by: .*{why}"):
        Records(output, extra=table, partition_by=[name])


def test_a_place_tells_its_values() -> None:
    values = {"language": "x/y=z é%", "show": None, "a b": "."}
    place = partition(values)
    assert place == "language=x%2Fy%3Dz%20%C3%A9%25/show=__HIVE_DEFAULT_PARTITION__/a%20b=."
    assert partition_of(f"s3://b/o=1/metadata/{place}/part.parquet", "s3://b/o=1") == values
    assert partition_of("/out/metadata/part.parquet", "/out") == {}
    assert partition_of("/out/metadata/backup/part.parquet", "/out") is None


def test_what_others_put_in_folders_beside_the_table_is_left_alone(tmp_path: Path) -> None:
    written(str(tmp_path))
    shutil.copytree(tmp_path / "metadata", tmp_path / "backup")
    shutil.move(tmp_path / "backup", tmp_path / "metadata" / "backup")
    assert languages(str(tmp_path)) == LANGUAGES
    Records(str(tmp_path)).compact()
    assert len(list((tmp_path / "metadata" / "backup").iterdir())) == 5


def test_split_keeps_every_row() -> None:
    table = pa.table({"clip_id": list("abcde"), "show": ["x", None, "", "y", "x"]})
    made = {place: rows["clip_id"].to_pylist() for place, rows in split(table, ["show", "gone"])}
    gone = "gone=__HIVE_DEFAULT_PARTITION__"
    assert made == {
        f"show=x/{gone}": ["a", "e"],
        f"show=__HIVE_DEFAULT_PARTITION__/{gone}": ["b", "c"],
        f"show=y/{gone}": ["d"],
    }


# Another layout than before


def test_a_text_that_is_too_long_for_a_folder_is_refused_before_anything_moves(output: str) -> None:
    title = {"clip_id": ["a"], "title": ["題名" * 20]}
    with pytest.raises(ConfigError, match=r"partition_by: 'title' has the value '題名.*more than 255 characters"):
        Records(output, extra=pa.table(title), partition_by=["title"])
    with Records(output, extra=pa.table(title)) as table:
        table.add(ok("a"))
    before = files.metadata_files(output)
    short = pa.table({"clip_id": ["b"], "title": ["short"]})
    with pytest.raises(ConfigError, match="'title' has the value '題名"):
        Records(output, extra=short, partition_by=["title"])
    assert files.metadata_files(output) == before


@pytest.mark.parametrize(("before", "after"), [([], ["language"]), (["language"], []), (["language"], ["status", "language"])])
def test_a_table_moves_when_partition_by_changes(output: str, before: list[str], after: list[str]) -> None:
    written(output, partition_by=before)
    table = read_records(output).sort_by("clip_id")
    noted: list[str] = []
    again = Records(output, extra=extra(*"abcde"), partition_by=after, note=noted.append)
    assert len(again) == 5
    assert noted == [f"laying out the table {'by ' + ', '.join(after) if after else 'in one folder'}: 5 files"]
    assert {tuple(partition_of(uri, output) or ()) for uri in files.metadata_files(output)} == {tuple(after)}
    assert read_records(output).sort_by("clip_id").equals(table)
    assert Records(output, partition_by=after, note=pytest.fail).left(pa.chunked_array([["a"]])).tolist() == []


def test_a_look_moves_nothing(output: str) -> None:
    written(output)
    held = files.metadata_files(output)
    assert len(Records(output, partition_by=["language"], read_only=True)) == 5
    assert files.metadata_files(output) == held


def test_an_output_of_an_earlier_version_moves(golden: Path, tmp_path: Path) -> None:
    old = str(shutil.copytree(golden / "output-0.1.0", tmp_path / "out"))
    before = {row["clip_id"]: row for row in read_records(old).to_pylist()}
    Records(old, recipe="7595a91b9c3b40f8", partition_by=["status"])
    rows = {row["clip_id"]: row for row in read_records(old).to_pylist()}
    assert set(rows) == {*before, "pending"}
    assert [rows[name] for name in before] == list(before.values())
    assert set(places(old)) == {"status=ok", "status=failed"}


class Killed(BaseException):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, changes: int) -> None:
    """From so many changes of storage on, none happens any more."""
    left = itertools.count(changes, -1)
    write, remove = storage.write_bytes, storage.delete

    def counted(action: Callable[..., None], *args: Any, **options: Any) -> None:
        if next(left) <= 0:
            raise Killed
        action(*args, **options)

    def one_by_one(uris: Any, **options: Any) -> None:
        for uri in uris:
            counted(remove, [uri], **options)

    monkeypatch.setattr(writer, "write_bytes", partial(counted, write))
    for module in (ledger, writer):
        monkeypatch.setattr(module, "delete", one_by_one)


@pytest.mark.parametrize("after", [[], ["language"]])
def test_a_kill_while_a_table_moves_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: list[str]) -> None:
    monkeypatch.setattr(writer, "MOST_ROWS", 2)
    for step in itertools.count():
        output = str(tmp_path / f"out{step}")
        written(output, partition_by=["language"] if not after else [])
        finished = True
        for _ in range(2):
            with monkeypatch.context() as patch:
                kill_at(patch, step)
                try:
                    Records(output, partition_by=after)
                except Killed:
                    finished = False
            assert {row["clip_id"]: row["language"] for row in read_records(output).to_pylist()} == LANGUAGES
        Records(output, partition_by=after)
        assert languages(output) == LANGUAGES
        assert {tuple(partition_of(uri, output) or ()) for uri in files.metadata_files(output)} == {tuple(after)}
        if finished:
            break
    assert step > 5


def test_an_outage_between_two_folders_doubles_nothing(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Records(output, partition_by=["language"])
    for clip_id, language in LANGUAGES.items():
        table.add(ok(clip_id, language=language))
    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        kill_at(patch, 2)
        table.flush()
    assert 0 < len(languages(output)) < 5
    table.add(ok("f", language="de"))
    table.flush()
    assert languages(output) == {**LANGUAGES, "f": "de"}


# Merging


def test_each_folder_is_merged_for_itself(output: str) -> None:
    written(output, {f"c{number}": "de" if number % 2 else "fr" for number in range(20)}, partition_by=["language"])
    assert places(output) == {"language=de": 10, "language=fr": 10}
    Records(output, partition_by=["language"]).compact()
    assert places(output) == {"language=de": 1, "language=fr": 1}
    assert Counter(languages(output).values()) == {"de": 10, "fr": 10}


def test_a_long_run_merges_only_folders_with_many_files(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_CROWD", 5)
    table = Records(output, every_rows=1, partition_by=["language"])
    for number in range(23):
        table.add(ok(f"c{number}", language="de" if number % 4 else "fr"))
        assert max(places(output).values()) <= 6
    assert len(languages(output)) == 23


def test_large_files_are_not_written_again_for_a_few_rows(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_FEW_ROWS", 3)
    for night in range(12):
        with Records(output, every_rows=99) as table:
            for number in range(40 if night == 0 else 2):
                table.add(ok(f"n{night}-{number}"))
            table.compact()
        if night == 0:
            (large,) = files.metadata_files(output)
        elif night < 5:
            assert large in files.metadata_files(output)
    assert len(read_records(output)) == 62
    assert len(files.metadata_files(output)) <= 3


def test_a_file_grows_to_so_many_bytes_at_most(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written(output)
    sizes = list(files.metadata_files(output).values())
    monkeypatch.setattr(writer, "MOST_BYTES", 2 * max(sizes) + 10)
    Records(output).compact()
    assert len(files.metadata_files(output)) == 3
    assert max(files.metadata_files(output).values()) <= writer.MOST_BYTES


# As others read it


def pending(output: str) -> None:
    written(output, partition_by=["language"])
    commit_pending(output, ok("late", language="de"))


def compacted(output: str) -> None:
    written(output, partition_by=["language"])
    Records(output, partition_by=["language"]).compact()


STATES: dict[str, Callable[[str], None]] = {
    "flat": written,
    "in folders": partial(written, partition_by=["language"]),
    "pending": pending,
    "compacted": compacted,
}


def by_pandas(folder: Path) -> list[dict[str, Any]]:
    text = pyarrow.dataset.partitioning(pa.schema([("language", pa.string())]), flavor="hive")
    frame = pd.read_parquet(folder, partitioning=text) if any(folder.glob("language=*")) else pd.read_parquet(folder)
    assert isinstance(frame["finished_at"].dtype, pd.DatetimeTZDtype)
    columns = (frame[name].tolist() for name in ("clip_id", "language", "tags", "finished_at"))
    return [
        {
            "clip_id": clip_id,
            "language": language if isinstance(language, str) else None,  # pandas says nothing as NaN
            "tags": list(tags),
            "finished_at": at.to_pydatetime(),
        }
        for clip_id, language, tags, at in zip(*columns, strict=True)
    ]


def by_duckdb(folder: Path) -> list[dict[str, Any]]:
    with duckdb.connect() as connection:
        found = connection.sql(
            f"SELECT clip_id, language, tags, finished_at FROM read_parquet('{folder}/**/*.parquet', union_by_name = true)"
        )
        return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def by_polars(folder: Path) -> list[dict[str, Any]]:
    return pl.read_parquet(folder).select("clip_id", "language", "tags", "finished_at").to_dicts()


def by_pyarrow(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder).select(["clip_id", "language", "tags", "finished_at"]).to_pylist()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("reader", [by_pandas, by_duckdb, by_polars, by_pyarrow])
def test_others_read_it(tmp_path: Path, state: str, reader: Callable[[Path], list[dict[str, Any]]]) -> None:
    STATES[state](str(tmp_path))
    rows = sorted(reader(tmp_path / "metadata"), key=lambda row: row["clip_id"])
    told = [
        {"clip_id": clip_id, "language": language, "tags": ["x", clip_id], "finished_at": AT}
        for clip_id, language in LANGUAGES.items()
    ]
    assert rows == told


def test_pandas_needs_no_more_than_the_folder_where_every_clip_has_a_language(tmp_path: Path) -> None:
    written(str(tmp_path), {"a": "de", "b": "fr"}, partition_by=["language"])
    frame = pd.read_parquet(tmp_path / "metadata")
    assert dict(zip(frame["clip_id"], frame["language"], strict=True)) == {"a": "de", "b": "fr"}
    only = pd.read_parquet(tmp_path / "metadata", filters=[("language", "=", "de")])
    assert only["clip_id"].tolist() == ["a"]


def test_read_records_needs_nothing(tmp_path: Path) -> None:
    written(str(tmp_path), partition_by=["language"])
    frame = read_records(tmp_path).to_pandas()
    assert frame.set_index("clip_id")["language"].dropna().to_dict() == {
        key: value for key, value in LANGUAGES.items() if value
    }


# A job


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def one_pass(pairs: list[Pair], job: Job, **_: Any) -> Any:
        for pair in pairs:
            names.append(pair.clip_id)
            path = Path(job.output, "clips", f"{pair.clip_id}.mp4")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a clip")
            facts: dict[str, Any] = {
                "output": str(path),
                "output_path": f"clips/{pair.clip_id}.mp4",
                "settings": own_settings(pair),
            }
            facts |= {"language": pair.language, "recipe": job.recipe.fingerprint(), "frames": 1}
            yield ClipRecord(clip_id=pair.clip_id, **sources(pair), status="ok", **facts)

    monkeypatch.setattr("latentsync_ray.local.one_pass", one_pass)
    return names


def test_a_job_goes_on_redoes_and_prunes_in_folders(tmp_path: Path, made: list[str]) -> None:
    (tmp_path / "v.mp4").write_text("v")
    (tmp_path / "a.wav").write_text("a")

    def job(languages: dict[str, str], **fields: Any) -> Job:
        rows = [f"{name},v.mp4,a.wav,{language},morning" for name, language in languages.items()]
        (tmp_path / "pairs.csv").write_text("\n".join(["clip_id,video,audio,language,show", *rows]))
        recipe = Recipe(model="tiny-random", detector="embedded", steps=1)
        asked = {"recipe": recipe, "cluster": Cluster(runner="local"), "partition_by": "language", **fields}
        return Job(manifest=tmp_path / "pairs.csv", output=tmp_path / "out", **asked)

    output, first = str(tmp_path / "out"), {"a": "de", "b": "fr", "c": "de", "d": ""}
    run(job(first, partition_by=()))
    assert set(places(output)) == {""}
    summary = run(job(first))
    assert (made, summary.done_before, summary.ok) == (list("abcd"), 4, 0)
    assert places(output) == {"language=de": 1, "language=fr": 1, NOTHING: 1}
    del made[:]
    changed = {"a": "fr", "b": "fr", "c": "de"}
    told = forecast.forecast(job(changed))
    assert (told.changed, told.done, told.not_in_manifest) == (1, 2, 1)
    summary = run(job(changed, prune=True))
    assert (made, summary.changed, summary.removed) == (["a"], 1, 1)
    assert languages(output) == changed
    assert set(places(output)) == {"language=de", "language=fr"}
    assert not (tmp_path / "out" / "metadata" / NOTHING).exists()
    with pytest.raises(ConfigError, match=r"partition_by: 'sho' is no such column; use language, .*, show"):
        run(job(changed, partition_by="sho"))
    run(job(changed, partition_by="show"))
    assert places(output) == {"show=morning": 1}
