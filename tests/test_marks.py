"""Marks of people who looked: clips made again, left alone or removed, once; and files of marks that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from test_todo import RECIPE, Dataset, Runner
from typer.testing import CliRunner

from latentsync_ray import Cluster, ConfigError, Job, Summary, read_records, storage
from latentsync_ray.cli import app
from latentsync_ray.forecast import forecast
from latentsync_ray.marks import marked

HEAD = "clip_id,mark,seed\n"


class Marked(Dataset):
    """A dataset whose runs read marks."""

    def go(self, *lines: str, **fields: Any) -> tuple[Summary, list[str]]:
        (self.folder / "marks.csv").write_text(HEAD + "".join(f"{line}\n" for line in lines))
        return self.run(marks=self.folder / "marks.csv", **fields)

    def rows_of_table(self) -> dict[str, dict[str, Any]]:
        return {row["clip_id"]: row for row in read_records(self.folder / "out").to_pylist()}

    def plan(self, sample: int | None = 0, **fields: Any) -> Any:
        asked = {"recipe": RECIPE, "cluster": Cluster(runner="local"), "marks": self.folder / "marks.csv", **fields}
        return forecast(Job(manifest=self.folder / "pairs.csv", output=self.folder / "out", **asked), sample=sample)


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Marked:
    runner = Runner()
    monkeypatch.setattr("latentsync_ray.local.one_pass", runner)
    return Marked(tmp_path, runner)


def test_each_mark_is_done_once(dataset: Marked) -> None:
    dataset.run()
    before = dataset.rows_of_table()
    marks = ("anna,keep,", "ben,redo,7", "cleo,drop,")
    (dataset.folder / "marks.csv").write_text(HEAD + "\n".join(marks))
    told = dataset.plan()
    assert (told.changed, told.new, told.done, told.dropped) == (1, 0, 1, 1)
    assert sorted(dataset.clips()) == ["anna.mp4", "ben.mp4", "cleo.mp4"], "a plan removes nothing"
    summary, made = dataset.go(*marks)
    assert made == ["ben"]
    assert (summary.total, summary.ok, summary.done_before, summary.dropped, summary.removed) == (3, 1, 1, 1, 0)
    assert sorted(dataset.clips()) == ["anna.mp4", "ben.mp4"]
    rows = dataset.rows_of_table()
    assert sorted(rows) == ["anna", "ben"]
    assert rows["anna"] == before["anna"]
    assert rows["ben"]["settings"] != before["ben"]["settings"]
    for _ in range(2):
        summary, made = dataset.go(*marks)
        assert (made, summary.ok, summary.left, summary.dropped, summary.exit_code) == ([], 0, 0, 1, 0)
    assert dataset.go(marks[0], "ben,redo,8", marks[2])[1] == ["ben"]
    assert dataset.run()[1] == ["ben", "cleo"], "without the marks, clips are what the manifest says"


@pytest.mark.parametrize("on_change", ["redo", "keep", "fail"])
def test_redo_does_not_ask_what_else_changes(dataset: Marked, on_change: str) -> None:
    dataset.rows["ben"]["seed"] = "5"
    dataset.run()
    assert dataset.go("anna,redo,9223372036854775807", "ben,redo,5", on_change=on_change)[1] == ["anna"], "ben has that seed"


def test_redo_tries_a_failed_clip_again_once(dataset: Marked) -> None:
    dataset.say("ben", "nobody")
    dataset.run()
    assert dataset.run()[1] == []
    assert dataset.go("ben,redo,1")[1] == ["ben"]
    assert dataset.go("ben,redo,1")[1] == []
    assert dataset.rows_of_table()["ben"]["error_code"] == "no_face"
    assert dataset.go("ben,redo,2")[1] == ["ben"]


def test_redo_of_a_clip_whose_record_tells_no_settings(dataset: Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("test_todo.own_settings", lambda _: None)
        dataset.run()
    assert dataset.go("ben,redo,1")[1] == ["ben"]
    assert dataset.go("ben,redo,1")[1] == []


def test_keep_keeps_whatever_changes_or_is_to_be_tried(dataset: Marked) -> None:
    dataset.say("ben", "nobody")
    dataset.run()
    dataset.say("anna", "goodbye")
    dataset.say("ben", "hello")
    (dataset.folder / "out" / "clips" / "cleo.mp4").unlink()
    marks = ("anna,keep,", "ben,keep,", "cleo,keep,")
    for retry in ((), ("failed", "missing"), ("all",)):
        summary, made = dataset.go(*marks, retry=retry)
        assert (made, summary.done_before, summary.failed_before) == ([], 2, 1)
    assert dataset.go(*marks, on_change="fail")[1] == []
    dataset.add("dora")
    assert dataset.go(*marks, "dora,keep,")[1] == ["dora"], "there is nothing of it to be kept yet"
    assert dataset.go()[1] == ["anna", "ben"]


def test_drop_is_no_prune_of_others(dataset: Marked) -> None:
    dataset.run()
    del dataset.rows["anna"]
    summary, made = dataset.go("ben,drop,", "cleo,drop,")
    assert (made, summary.dropped, summary.not_in_manifest, summary.removed) == ([], 2, 1, 0)
    assert sorted(dataset.clips()) == ["anna.mp4"], "two of three go without a word about manifests that are cut short"
    summary, _ = dataset.go("ben,drop,")
    assert (sorted(dataset.clips()), summary.ok) == (["anna.mp4", "cleo.mp4"], 1)
    summary, _ = dataset.go("cleo,drop,", prune=True)
    assert (sorted(dataset.clips()), summary.removed, summary.dropped) == (["ben.mp4"], 1, 1)


def test_a_dropped_clip_is_not_made_and_not_looked_at(dataset: Marked) -> None:
    for name in ("ben", "cleo"):
        (dataset.folder / f"{name}.mp4").unlink()
    summary, made = dataset.go("ben,drop,", "cleo,drop,", failure_budget=0)
    assert (made, summary.total, summary.ok, summary.dropped, summary.left) == (["anna"], 3, 1, 2, 0)


def test_a_drop_that_breaks_off_is_finished(dataset: Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.run()

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("latentsync_ray.todo.finish_prune", killed)
        with pytest.raises(KeyboardInterrupt):
            dataset.go("anna,drop,", "ben,redo,3")
    assert sorted(dataset.rows_of_table()) == ["ben", "cleo"]
    assert dataset.go("anna,drop,", "ben,redo,3")[1] == ["ben"]
    assert sorted(dataset.clips()) == ["ben.mp4", "cleo.mp4"]
    assert not list((dataset.folder / "out" / "_work").iterdir())


def test_the_place_of_a_dropped_clip_is_free(dataset: Marked) -> None:
    dataset.run()
    dataset.rows["anna"]["clip_name"] = "elsewhere"
    dataset.add("dora", clip_name="anna")
    for name in ("ben", "cleo"):
        dataset.rows[name]["clip_name"] = name
    assert dataset.go("anna,drop,")[1] == ["dora"]
    assert dataset.clips()["anna.mp4"] == "dora says hello"


def test_row_numbers_are_those_of_the_manifest(dataset: Marked) -> None:
    dataset.rows["cleo"]["seed"] = "none"
    dataset.go("anna,drop,")
    assert dataset.plan(sample=None, retry="all").examples["invalid_pair"].startswith("cleo (row 3): ")


# The file


def table(**columns: Any) -> pa.Table:
    return pa.table({"clip_id": ["a", 'b,"c', "ü</script>", "d"], **columns})


def read(folder: Path, text: str | bytes, manifest: pa.Table | None = None) -> Any:
    path = folder / "marks.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return marked(table() if manifest is None else manifest, str(path))


def test_without_a_file_nothing_is_marked() -> None:
    manifest = table()
    same, marks = marked(manifest, None)
    assert same is manifest
    assert not len(marks.keep) + len(marks.redo) + len(marks.drop)


def test_ids_of_any_characters(tmp_path: Path) -> None:
    manifest, marks = read(tmp_path, f'\ufeff{HEAD}ü</script>,keep,\nd,drop,5\n"b,""c",redo,7\n')
    assert [each.tolist() for each in (marks.keep, marks.redo, marks.drop)] == [[2], [1], [3]]
    assert manifest["seed"].to_pylist() == [None, 7, None, None], "a seed is for redo only"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (pa.array([1, None, 3, 4]), [700, None, 3, 4]),
        (pa.array([1, None, 3, 4], pa.uint8()), [700, None, 3, 4]),
        (pa.array([1, None, 3, 4], pa.uint64()), [700, None, 3, 4]),
        (pa.array([1.0, None, float("nan"), 4.5]), [700.0, None, pytest.approx(float("nan"), nan_ok=True), 4.5]),
        (pa.array(["1", None, "x", "4"]), ["700", None, "x", "4"]),
        (pa.array(["1", None, "x", "4"], pa.large_string()), ["700", None, "x", "4"]),
        (pa.nulls(4), [700, None, None, None]),
    ],
)
def test_seeds_go_into_the_column_that_is_there(tmp_path: Path, own: pa.Array, expected: list[Any]) -> None:
    manifest, _ = read(tmp_path, f"{HEAD}a,redo,700\n", table(seed=own))
    assert manifest["seed"].to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{HEAD}a,keep,\n\nzz,keep,\n", r"marks\.csv, line 4: the manifest has no clip 'zz'; remove the line"),
        (f"{HEAD}a,keep,\nd,drop,\na,drop,\n", r"line 4: clip 'a' is marked twice; leave one"),
        (f"{HEAD}a,Keep,\n", r"line 2: the mark of clip 'a' is 'Keep'; use keep, redo or drop"),
        (f"{HEAD}a,,\n", r"line 2: the mark of clip 'a' is ''; use keep"),
        (f"{HEAD},keep,\n", r"line 2: it names no clip"),
        *((f"{HEAD}a,redo,{seed}\n", rf"line 2: redo of clip 'a' has the seed '{seed}'; use") for seed in ("", -1, 1.5, 2**63)),
        ("clip_id,mark\na,keep\n", r"must have the column 'seed' once, and has clip_id, mark"),
        ("", r"is empty; its first line must name the columns, among them clip_id and mark"),
        (f"{HEAD}a,keep\n", r"row 1 has 2 values, and the header 3"),
        (HEAD.encode() + b"\xff,keep,\n", r"line 2 is not in UTF-8"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, text)


def test_seeds_that_the_column_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"do not go into the manifest's column seed, which holds double"):
        read(tmp_path, f"{HEAD}a,redo,{2**53 + 1}\n", table(seed=[1.0, 2.0, 3.0, 4.0]))


def test_a_file_that_is_not_there(dataset: Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the marks: .*none\.csv"):
        dataset.run(marks=dataset.folder / "none.csv")
    assert not (dataset.folder / "out").exists()
    monkeypatch.setattr("latentsync_ray.marks.fetch", lambda uri: storage.fetch("memory://nowhere/m.csv"))
    with pytest.raises(ConfigError, match="cannot read the marks"):
        dataset.run(marks="https://user:secret@host/m.csv")


def test_many_rows_are_no_objects(tmp_path: Path) -> None:
    count = 300_000
    manifest = pa.table({"clip_id": pa.array(np.arange(count)).cast(pa.string()), "seed": np.arange(count)})
    lines = "".join(f"{number},{('keep', 'redo', 'drop')[number % 3]},{number}\n" for number in range(0, count, 7))
    changed, marks = read(tmp_path, HEAD + lines, manifest)
    assert len(marks.keep) + len(marks.redo) + len(marks.drop) == len(range(0, count, 7))
    assert changed["seed"].equals(manifest["seed"])


def test_the_command_takes_marks(dataset: Marked) -> None:
    dataset.run()
    (dataset.folder / "marks.csv").write_text(f"{HEAD}anna,drop,\n")
    job = dataset.folder / "job.yaml"
    job.write_text(
        f"manifest: {dataset.folder}/pairs.csv\noutput: {dataset.folder}/out\ncluster: {{runner: local}}\n"
        "recipe: {model: tiny-random, detector: embedded, steps: 1, preset: ultrafast}\n"
    )
    marks = ["--marks", str(dataset.folder / "marks.csv")]
    told = CliRunner().invoke(app, ["plan", str(job), *marks])
    assert "1 marked drop: would be removed, and not made" in told.output
    told = CliRunner().invoke(app, ["run", str(job), *marks])
    assert told.exit_code == 0, told.output
    assert "1 clip marked drop: not made, and removed if there" in told.output
    assert sorted(dataset.clips()) == ["ben.mp4", "cleo.mp4"]
