"""The same job again: what is new or changed is made, and nothing else."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from eight_pairs import portrait
from make_clips import write_clip
from typer.testing import CliRunner

from latentsync_ray import Cluster, ConfigError, Job, Pair, Recipe, Summary, assets, changes, read_records, run, storage
from latentsync_ray.changes import changed_rows
from latentsync_ray.cli import app
from latentsync_ray.errors import ClipError, NoFace, StorageUnavailable
from latentsync_ray.forecast import forecast
from latentsync_ray.layout import clip_uri
from latentsync_ray.manifest import read_manifest
from latentsync_ray.progress import PlainProgress
from latentsync_ray.recipe import own_settings
from latentsync_ray.records import Records, commit_pending
from latentsync_ray.stages.failures import failed_record, sources, telling
from latentsync_ray.stages.inputs import fetch_input
from latentsync_ray.storage import fetch_version, write_bytes
from latentsync_ray.todo import Todo, check_places, prune, reopen, rows_of
from latentsync_ray.types import ClipRecord

RECIPE = Recipe(model="tiny-random", detector="embedded", steps=1, preset="ultrafast")


class Runner:
    """Makes clips of text, as fast as files can be written, and remembers which."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, pairs: Iterable[Pair], job: Job, **_: Any) -> Iterator[ClipRecord]:
        for pair in pairs:
            self.made.append(pair.clip_id)
            try:
                yield self._record(pair, job)
            except ClipError as error:
                yield failed_record(pair, job.recipe, error)

    def _record(self, pair: Pair, job: Job) -> ClipRecord:
        video, audio = fetch_input(pair.video), fetch_input(pair.audio)
        made_of = {"video_version": video.version, "audio_version": audio.version, "settings": own_settings(pair)}
        made_of |= {"video_sha256": video.digest, "audio_sha256": audio.digest}
        with telling(made_of):
            if audio.path.read_text().startswith("nobody"):
                raise NoFace("there is nobody")
        uri = clip_uri(job.output, pair.clip_name or pair.clip_id)
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        Path(uri).write_text(f"{video.path.read_text()} says {audio.path.read_text()}")
        path = uri.removeprefix(f"{job.output}/")
        facts = {"output": uri, "output_path": path, "status": "ok", "frames": 1, "recipe": job.recipe.fingerprint()}
        return ClipRecord(clip_id=pair.clip_id, **sources(pair), **made_of, **facts)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    runner = Runner()
    monkeypatch.setattr("latentsync_ray.local.one_pass", runner)
    return runner


class Dataset:
    """A manifest that can be changed, with its files, and the job that is run again and again."""

    def __init__(self, folder: Path, runner: Runner) -> None:
        self.folder, self.runner = folder, runner
        self.rows: dict[str, dict[str, str]] = {}
        for name in ("anna", "ben", "cleo"):
            self.add(name)

    def add(self, name: str, said: str = "hello", **columns: str) -> None:
        (self.folder / f"{name}.mp4").write_text(name)
        (self.folder / f"{name}.wav").write_text(said)
        self.rows[name] = {"clip_id": name, "video": f"{name}.mp4", "audio": f"{name}.wav", **columns}

    def say(self, name: str, said: str) -> None:
        (self.folder / f"{name}.wav").write_text(said)

    def run(self, **fields: Any) -> tuple[Summary, list[str]]:
        """How it ended, and what was made."""
        columns = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        with (self.folder / "pairs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows.values())
        self.runner.made = []
        asked = {"failure_budget": 1.0, "recipe": RECIPE, "cluster": Cluster(runner="local"), **fields}
        summary = run(Job(manifest=self.folder / "pairs.csv", output=self.folder / "out", **asked))
        return summary, sorted(self.runner.made)

    def clips(self) -> dict[str, str]:
        root = self.folder / "out" / "clips"
        return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*.mp4"))}


@pytest.fixture
def dataset(tmp_path: Path, runner: Runner) -> Dataset:
    return Dataset(tmp_path, runner)


def test_on_a_schedule_only_what_changed_is_made(dataset: Dataset) -> None:
    assert dataset.run()[1] == ["anna", "ben", "cleo"]
    summary, made = dataset.run()
    assert (made, summary.ok, summary.done_before, summary.exit_code) == ([], 0, 3, 0)
    dataset.say("ben", "goodbye!")
    dataset.add("dora")
    del dataset.rows["cleo"]
    summary, made = dataset.run()
    assert made == ["ben", "dora"]
    assert (summary.total, summary.changed, summary.not_in_manifest, summary.ok, summary.done_before) == (3, 1, 1, 2, 1)
    assert dataset.clips()["ben.mp4"] == "ben says goodbye!"
    assert "cleo.mp4" in dataset.clips(), "a removed row is reported, and its clip kept"
    assert dataset.run()[1] == []


def test_prune_removes_files_and_rows_of_what_left_the_manifest(dataset: Dataset) -> None:
    dataset.run()
    del dataset.rows["cleo"]
    summary, made = dataset.run(prune=True)
    assert (made, summary.removed, summary.not_in_manifest) == ([], 1, 0)
    assert sorted(dataset.clips()) == ["anna.mp4", "ben.mp4"]
    assert sorted(read_records(dataset.folder / "out")["clip_id"].to_pylist()) == ["anna", "ben"]
    assert dataset.run(prune=True)[0].removed == 0


@pytest.mark.parametrize("gone", [True, False])
def test_a_prune_that_breaks_off_leaves_no_row_without_a_file(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    dataset.run()
    real, row = storage.delete, dataset.rows.pop("cleo")

    def killed(uris: Iterable[str], **where: Any) -> None:
        uris = list(uris)
        clips = any("/clips/" in uri for uri in uris)
        if gone or not clips:
            real(uris, **where)
        if clips:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        dataset.run(prune=True)
    monkeypatch.setattr(storage, "delete", real)
    dataset.run()
    assert sorted(dataset.clips()) == ["anna.mp4", "ben.mp4"], "the next run finishes it"
    assert not list((dataset.folder / "out" / "_work").iterdir())
    dataset.rows["cleo"] = row
    assert dataset.run()[1] == ["cleo"]
    assert "cleo.mp4" in dataset.clips()


def test_a_changed_setting_of_a_row_makes_its_clip_again(dataset: Dataset) -> None:
    dataset.run()
    dataset.rows["anna"]["seed"] = "7"
    dataset.rows["ben"]["language"] = "fr"
    assert dataset.run()[1] == ["anna", "ben"]
    assert dataset.run()[1] == []
    dataset.rows["anna"]["seed"] = " 7"  # as another program writes it
    assert dataset.run()[1] == []
    del dataset.rows["anna"]["seed"]
    assert dataset.run()[1] == ["anna"]


def test_keep_does_not_look_and_fail_starts_nothing(dataset: Dataset) -> None:
    dataset.run()
    dataset.say("ben", "goodbye!")
    assert dataset.run(on_change="keep")[1] == []
    with pytest.raises(ConfigError, match=r"settings of 1 clip \(ben\) changed since they were made, and on_change is fail"):
        dataset.run(on_change="fail")
    assert dataset.clips()["ben.mp4"] == "ben says hello"
    assert dataset.run()[1] == ["ben"]


def test_a_copy_with_another_time_is_the_same_by_its_content(dataset: Dataset) -> None:
    dataset.run()
    os.utime(dataset.folder / "anna.mp4", (1, 1))
    assert dataset.run(content_hash=True)[1] == []
    assert dataset.run()[1] == ["anna"]
    times = (dataset.folder / "ben.wav").stat()
    dataset.say("ben", "HELLO")
    os.utime(dataset.folder / "ben.wav", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert dataset.run()[1] == [], "size and time are as they were"
    assert dataset.run(content_hash=True)[1] == ["ben"]


def test_a_clip_that_failed_is_tried_again_when_its_input_is_another(dataset: Dataset) -> None:
    dataset.add("dora", said="nobody")
    summary, _ = dataset.run()
    assert (summary.failed, summary.ok) == (1, 3)
    assert dataset.run()[1] == []
    dataset.say("dora", "at last")
    assert dataset.run()[1] == ["dora"]
    assert dataset.clips()["dora.mp4"] == "dora says at last"


def test_an_input_that_is_gone_is_no_change(dataset: Dataset) -> None:
    dataset.run()
    (dataset.folder / "anna.mp4").unlink()
    assert dataset.run()[1] == []


def test_what_an_old_record_does_not_say_is_no_change(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dataset.runner._record

    def old(pair: Pair, job: Job) -> ClipRecord:
        unknown = dict.fromkeys(("video_version", "audio_version", "video_sha256", "audio_sha256", "settings"))
        return ClipRecord.from_row({**whole(pair, job).to_row(), **unknown})

    monkeypatch.setattr(dataset.runner, "_record", old)
    dataset.run()
    dataset.say("ben", "goodbye!")
    dataset.rows["anna"]["seed"] = "7"
    assert dataset.run()[1] == []


@pytest.mark.parametrize(
    ("retry", "made"),
    [("failed", ["dora"]), ("no_face", ["dora"]), ("too_large", []), ("too_large, no_face", ["dora"])],
)
def test_retry_names_what_is_made_again(dataset: Dataset, retry: str, made: list[str]) -> None:
    dataset.add("dora", said="nobody")
    dataset.run()
    assert dataset.run(retry=retry)[1] == made
    assert dataset.run(retry="all")[1] == ["anna", "ben", "cleo", "dora"]


def test_languages_of_a_video_lie_in_its_folder(dataset: Dataset) -> None:
    for name, language in (("anna", "de"), ("ben", "fr"), ("cleo", "pt-BR")):
        dataset.rows[name] |= {"language": language, "video": "anna.mp4"}
    dataset.run(clip_name="{video_stem}/{language}")
    assert list(dataset.clips()) == ["anna/de.mp4", "anna/fr.mp4", "anna/pt-BR.mp4"]
    assert dataset.run(clip_name="{language}")[1] == [], "finished clips stay where they are"
    dataset.say("ben", "goodbye!")
    assert dataset.run(clip_name="{language}")[1] == ["ben"]
    assert list(dataset.clips()) == ["anna/de.mp4", "anna/pt-BR.mp4", "fr.mp4"], "what is made again moves"


def test_no_clip_is_written_over_that_of_another_row(dataset: Dataset) -> None:
    dataset.rows["anna"]["language"] = "de"
    del dataset.rows["ben"], dataset.rows["cleo"]
    dataset.run(clip_name="talk/{language}")
    dataset.rows["other"] = {**dataset.rows.pop("anna"), "clip_id": "other"}
    with pytest.raises(ConfigError, match=r"row 1 \(other\) would be written over clips/talk/de.mp4, which is clip 'anna'"):
        dataset.run(clip_name="talk/{language}")
    assert list(dataset.clips()) == ["talk/de.mp4"]
    assert dataset.run(clip_name="talk/{language}", prune=True)[1] == ["other"]


def test_limit_and_stop_count_what_is_left(dataset: Dataset) -> None:
    summary, made = dataset.run(limit=1)
    assert (made, summary.ok, summary.left, summary.done_before) == (["anna"], 1, 2, 0)
    for name in ("x", "y", "z"):
        dataset.add(name, said="nobody")
    summary, made = dataset.run(stop_at_failed=2)
    assert (summary.ok, summary.failed, summary.left, summary.stopped, summary.exit_code) == (2, 2, 1, "stop_at_failed", 1)
    assert dataset.run()[1] == ["z"]


@pytest.mark.parametrize("again", [False, True])
def test_clips_that_were_joined_when_a_run_stopped_count(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """As on Ray, where clips are committed while the driver is still told of others."""
    if again:
        dataset.run()
    dataset.say("anna", "nobody")
    for name in ("ben", "cleo"):
        dataset.say(name, "goodbye!")

    def ahead(pairs: Iterable[Pair], job: Job, **how: Any) -> Iterator[ClipRecord]:
        results = list(dataset.runner(pairs, job, **how))
        for record in (result for result in results if result.ok):
            commit_pending(job.output, ClipRecord.from_row({**record.to_row(), "finished_at": datetime.now(UTC)}))
        yield from sorted(results, key=lambda result: result.ok)

    monkeypatch.setattr("latentsync_ray.local.one_pass", ahead)
    summary, _ = dataset.run(stop_at_failed=1)
    assert (summary.stopped, summary.failed, summary.ok, summary.left) == ("stop_at_failed", 1, 2, 0)


def test_a_share_of_failed_clips_counts_from_the_hundredth_on(dataset: Dataset) -> None:
    for number in range(150):
        dataset.add(f"n{number:03d}", said="nobody" if number % 2 else "hello")
    summary, _ = dataset.run(stop_at_failed=0.4)
    assert summary.stopped
    assert summary.ok + summary.failed == 100


def test_a_share_that_is_reached_is_not_exceeded(dataset: Dataset) -> None:
    """0.29 * 100 is less than 29 in binary fractions."""
    dataset.rows.clear()
    for number in range(100):
        dataset.add(f"n{number:02d}", said="nobody" if number < 29 else "hello")
    summary, _ = dataset.run(failure_budget=0.29, stop_at_failed=0.29)
    assert (summary.failed, summary.stopped, summary.exit_code) == (29, "", 0)


def test_a_thousand_rows_that_are_done_are_nothing_to_do(dataset: Dataset) -> None:
    for number in range(1000):
        dataset.add(f"n{number:04d}")
    dataset.run()
    summary, made = dataset.run()
    assert (made, summary.done_before) == ([], 1003)


def test_a_clip_that_is_dubbed_says_what_it_was_made_of(tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mp4", portrait(30))
    shutil.copy(assets.demo_audio(), tmp_path / "a.wav")
    grey = portrait(30)
    grey[:] = 128
    write_clip(tmp_path / "grey.mp4", grey)
    (tmp_path / "pairs.csv").write_text("clip_id,video,audio,seed\nanna,v.mp4,a.wav,7\ngrey,grey.mp4,a.wav,\n")
    job = Job(manifest=tmp_path / "pairs.csv", output=tmp_path / "out", recipe=RECIPE, cluster=Cluster(runner="local"), limit=2)
    run(job)
    anna, grey = (row for row in sorted(read_records(tmp_path / "out").to_pylist(), key=lambda row: row["clip_id"]))
    assert (anna["status"], grey["error_code"]) == ("ok", "no_face")
    video, audio = fetch_input(str(tmp_path / "v.mp4")), fetch_input(str(tmp_path / "a.wav"))
    told = [anna[name] for name in ("video_version", "audio_version", "video_sha256", "audio_sha256")]
    assert told == [video.version, audio.version, video.digest, audio.digest]
    assert grey["video_sha256"] == fetch_input(str(tmp_path / "grey.mp4")).digest
    assert anna["settings"] != grey["settings"]
    summary = run(job)
    assert (summary.ok, summary.failed, summary.left, summary.changed) == (0, 0, 0, 0)


def test_large_folders_of_an_object_store_are_listed_and_not_asked_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [f"memory://many/{number}.wav" for number in range(600)]
    for uri in [*many, "memory://few/a.wav"]:
        write_bytes(uri, uri.encode())
    asked: list[str] = []
    whole = storage.version
    monkeypatch.setattr(storage, "version", lambda uri: asked.append(uri) or whole(uri))
    (tmp_path / "a.wav").write_text("a")
    uris = [*many, "memory://few/a.wav", "memory://many/gone.wav", str(tmp_path / "a.wav"), "/gone.wav"]
    look = changes._Versions([pa.chunked_array([uris])])
    look.list_folders(pa.array(uris))
    told = list(look(uris))
    assert sorted(asked) == sorted(["memory://few/a.wav", "memory://many/gone.wav", str(tmp_path / "a.wav"), "/gone.wav"])
    assert told == [whole(uri) for uri in uris]
    assert (told[-1], told[-3]) == (None, None)
    assert told[-2] == fetch_version(uris[-2])[1]


def test_a_clip_that_the_limit_leaves_counts_once(dataset: Dataset) -> None:
    for name in ("x", "y"):
        dataset.add(name, said="nobody")
    dataset.run()
    summary, made = dataset.run(retry="failed", limit=1)
    assert (made, summary.done_before, summary.failed_before, summary.failed, summary.left) == (["x"], 3, 0, 1, 1)


def test_a_finished_clip_keeps_its_row_until_the_new_one_is_there(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.run()
    for name in dataset.rows:
        dataset.say(name, "goodbye!")
    make = dataset.runner._record

    def ended(pair: Pair, job: Job) -> ClipRecord:
        if pair.clip_id == "ben":
            raise KeyboardInterrupt
        return make(pair, job)

    monkeypatch.setattr(dataset.runner, "_record", ended)
    with pytest.raises(KeyboardInterrupt):
        dataset.run()
    rows = read_records(dataset.folder / "out").to_pylist()
    assert sorted(row["clip_id"] for row in rows) == ["anna", "ben", "cleo"]
    monkeypatch.setattr(dataset.runner, "_record", make)
    assert dataset.run(time_limit=1e-9, on_change="keep")[1] == []
    assert dataset.run()[1] == ["ben", "cleo"]
    assert set(dataset.clips().values()) == {f"{name} says goodbye!" for name in dataset.rows}


def test_a_clip_that_cannot_be_made_again_stays_as_it_was(dataset: Dataset) -> None:
    dataset.run()
    dataset.say("ben", "nobody")
    summary, made = dataset.run(failure_budget=0.0)
    assert (made, summary.failed, summary.kept, summary.exit_code) == (["ben"], 1, 1, 1)
    assert dataset.clips()["ben.mp4"] == "ben says hello"
    row = next(row for row in read_records(dataset.folder / "out").to_pylist() if row["clip_id"] == "ben")
    assert (row["status"], row["output_path"]) == ("ok", "clips/ben.mp4")
    dataset.say("ben", "goodbye!")
    assert dataset.run()[1] == ["ben"]


def test_prune_does_not_believe_a_manifest_that_lacks_most_clips(dataset: Dataset) -> None:
    dataset.run()
    del dataset.rows["ben"], dataset.rows["cleo"]
    (dataset.folder / "anna.wav").unlink()
    with pytest.raises(ConfigError, match="prune would remove 2 of the 3 clips"):
        dataset.run(prune=True, retry="all")  # and told before the inputs are looked at, of which most are missing
    assert len(dataset.clips()) == 3
    asked = Job(manifest=dataset.folder / "pairs.csv", output=dataset.folder / "out", recipe=RECIPE, prune=True)
    (lacking,) = forecast(asked).lacking
    assert "prune would remove 2 of the 3 clips" in lacking


def test_a_plan_says_what_prune_would_remove(dataset: Dataset) -> None:
    dataset.run()
    del dataset.rows["cleo"]
    dataset.run()
    (dataset.folder / "job.yaml").write_text(
        f"manifest: {dataset.folder}/pairs.csv\noutput: {dataset.folder}/out\n"
        "recipe: {model: tiny-random, detector: embedded, steps: 1, preset: ultrafast}\n"
    )
    for override, told in (("prune=false", "1 not in the manifest any more\n"), ("prune=true", "any more, would be removed\n")):
        shown = CliRunner().invoke(app, ["plan", f"{dataset.folder}/job.yaml", override])
        assert shown.exit_code == 0
        assert told in shown.stdout


def test_looking_for_changes_goes_on_counting(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.run()
    told: list[str] = []

    def one_by_one(output: str, columns: list[str]) -> Iterator[pa.Table]:
        made = read_records(output, columns=columns)
        yield from (made.slice(row, 1) for row in range(len(made)))

    table = read_manifest(str(dataset.folder / "pairs.csv"))
    rows = np.arange(3)
    changed_rows(table, rows, str(dataset.folder / "out"), phase=told.append)
    assert told == ["looking whether inputs have changed: 0 of 6"]
    monkeypatch.setattr(changes, "in_batches", one_by_one)
    told.clear()
    changed_rows(table, rows, str(dataset.folder / "out"), phase=told.append)
    asked = "looking whether inputs have changed: 0 of 2, of clips"
    assert told == [f"{asked} 1 to 1 of 3", f"{asked} 2 to 2 of 3", f"{asked} 3 to 3 of 3"]


def test_clips_that_the_limit_leaves_are_not_told_as_made_again(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.run()
    for name in ("anna", "ben", "cleo"):
        dataset.say(name, "goodbye!")
    progress = PlainProgress(ticking=False)
    monkeypatch.setattr(f"{__name__}.run", partial(run, progress=progress))
    summary, made = dataset.run(limit=1)
    assert "inputs or settings of 1 clip have changed: made again" in capsys.readouterr().err
    assert (made, summary.changed, summary.left) == (["anna"], 1, 2)


def test_a_clip_that_a_sink_puts_to_its_own_place_is_not_removed_as_the_former_one(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = dataset.runner._record

    def archived(pair: Pair, job: Job) -> ClipRecord:
        place = dataset.folder / "out" / "archive" / f"{pair.clip_id}.mp4"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(Path(pair.audio).read_text())
        where = {"output": str(place), "output_path": f"archive/{pair.clip_id}.mp4"}
        return ClipRecord.from_row({**make(pair, job).to_row(), **where})

    monkeypatch.setattr(dataset.runner, "_record", archived)
    dataset.run()
    dataset.say("ben", "goodbye!")
    assert dataset.run()[1] == ["ben"]
    assert (dataset.folder / "out" / "archive" / "ben.mp4").read_text() == "goodbye!"


def test_a_file_that_is_gone_is_made_again_when_asked_for(dataset: Dataset) -> None:
    dataset.add("dora", said="nobody")
    dataset.run(clip_name="talk/{clip_id}")
    (dataset.folder / "out" / "clips" / "talk" / "ben.mp4").unlink()
    assert dataset.run(clip_name="talk/{clip_id}")[1] == [], "clips may have been moved away"
    assert dataset.run(clip_name="talk/{clip_id}", retry="missing")[1] == ["ben"]
    assert dataset.run(clip_name="talk/{clip_id}", retry="missing")[1] == []


def test_a_clip_whose_file_is_gone_has_failed_when_it_cannot_be_made_again(dataset: Dataset) -> None:
    dataset.run()
    (dataset.folder / "out" / "clips" / "ben.mp4").unlink()
    dataset.say("ben", "nobody")
    summary, made = dataset.run(on_change="keep", retry="missing")
    assert (made, summary.failed) == (["ben"], 1)
    row = next(row for row in read_records(dataset.folder / "out").to_pylist() if row["clip_id"] == "ben")
    assert (row["status"], row["output_path"]) == ("failed", None)


def test_prune_leaves_a_file_that_another_clip_names(dataset: Dataset) -> None:
    dataset.run()
    output = str(dataset.folder / "out")
    records = Records(output)
    with records:
        records.add(ClipRecord(clip_id="dora", video="d.mp4", audio="d.wav", status="ok", output_path="clips/ben.mp4"))
    prune(output, records, pa.chunked_array([["anna", "ben"]]))
    assert sorted(dataset.clips()) == ["ben.mp4", "cleo.mp4"]
    assert sorted(read_records(output)["clip_id"].to_pylist()) == ["cleo", "dora"]


def test_a_store_that_does_not_answer_has_lost_no_clip(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.run()

    def away(uri: str) -> str:
        raise StorageUnavailable("the bucket is away")

    monkeypatch.setattr(storage, "version", away)
    monkeypatch.setattr(changes, "join", lambda *names: "memory://" + "/".join(names).strip("/") + "/")
    assert dataset.run(on_change="keep", retry="missing")[1] == []


def test_a_disk_that_does_not_answer_has_lost_no_clip(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.run()
    stat = Path.stat

    def away(self: Path, **how: Any) -> Any:
        if self.parent.name == "clips":
            raise OSError(errno.EIO, "Input/output error", str(self))
        return stat(self, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", away)
        assert dataset.run(on_change="keep", retry="missing")[1] == []
    (dataset.folder / "out" / "clips" / "ben.mp4").unlink()
    assert dataset.run(on_change="keep", retry="missing")[1] == ["ben"]


def test_prune_leaves_no_empty_folder(dataset: Dataset) -> None:
    dataset.run(clip_name="{clip_id}/x")
    (dataset.folder / "out" / "clips" / "ben" / "notes.txt").write_text("mine")
    for name in ("ben", "cleo", "dora", "eve"):
        dataset.add(name) if name not in dataset.rows else dataset.rows.pop(name)
    dataset.run(clip_name="{clip_id}/x")
    dataset.run(clip_name="{clip_id}/x", prune=True)
    assert sorted(path.name for path in (dataset.folder / "out" / "clips").iterdir()) == ["anna", "ben", "dora", "eve"]


def test_a_former_file_goes_with_its_folder(dataset: Dataset) -> None:
    dataset.run(clip_name="old/{clip_id}")
    for name in dataset.rows:
        dataset.say(name, "goodbye!")
    dataset.run(clip_name="new/{clip_id}")
    assert [path.name for path in (dataset.folder / "out" / "clips").iterdir()] == ["new"]
    assert len(dataset.clips()) == 3


def test_text_of_more_than_two_gigabytes_is_no_hindrance(tmp_path: Path) -> None:
    text = pa.py_buffer(np.zeros(1_200_000_000, np.uint8))  # pages that nobody touches take no memory
    offsets = pa.py_buffer(np.linspace(0, len(text), 1001).astype(np.int32))
    chunk = pa.Array.from_buffers(pa.string(), 1000, [None, offsets, text])
    names = pa.array([f"c{number}" for number in range(3000)])
    table = pa.table({"clip_id": names, "video": names, "audio": names, "notes": pa.chunked_array([chunk] * 3)})
    rows = np.array([1, 2999])
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        table.take(rows)
    records = Records(str(tmp_path))
    check_places(str(tmp_path), table, rows)
    reopen(
        table,
        Todo(rows=rows, over_limit=rows[:0], changed=rows[:0], missing=rows[1:], removed=pa.chunked_array([[""]])),
        records,
    )
    assert rows_of(table, rows, ["clip_id", "none"]).to_pydict() == {"clip_id": ["c1", "c2999"]}
    assert [len(text) for text in rows_of(table, rows, ["notes"])["notes"].to_pylist()] == [1_200_000] * 2
    assert len(changes.changed_rows(table, rows, str(tmp_path))) == 0


class Curt(BaseHTTPRequestHandler):
    """A web server that tells of its files how long they are, and nothing else."""

    def do_GET(self) -> None:
        content = self.path.encode()[:2]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 - its base's name

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - its base's name


def test_another_address_is_another_input_where_a_server_tells_sizes_only(dataset: Dataset) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Curt) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        dataset.rows["ben"]["audio"] = f"{site}/a"
        assert dataset.run()[1] == ["anna", "ben", "cleo"]
        dataset.rows["ben"]["audio"] = f"{site}/a?signature=today"
        assert dataset.run()[1] == [], "signed anew"
        dataset.rows["ben"]["audio"] = f"{site}/b?signature=today"
        assert dataset.run()[1] == ["ben"]
        assert dataset.clips()["ben.mp4"] == "ben says /b"
        server.shutdown()


def test_a_large_folder_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    uris = [f"memory://once/{number}.wav" for number in range(1800)]
    for uri in [*uris, "memory://once/stranger.wav"]:
        write_bytes(uri, b"a")
    listed: list[str] = []
    real = storage.versions_in
    monkeypatch.setattr(storage, "versions_in", lambda folder: listed.append(folder) or real(folder))
    monkeypatch.setattr(storage, "version", pytest.fail)
    monkeypatch.setattr(changes, "_AT_ONCE", 600)
    look = changes._Versions([pa.chunked_array([uris]), pa.chunked_array([["/a.mp4"]])])
    for some in (uris, uris[:900]):
        told = changes._now(pa.array(some), look, lambda _: None, "inputs have changed")
        assert told.null_count == 0
        assert len(told) == len(some)
    assert listed == ["memory://once"]
    assert len(look._kept["memory://once"]) == 1800, "of others nothing is kept"
    monkeypatch.setattr(changes, "_MOST_KEPT", 1000)
    look.list_folders(pa.array([f"memory://none/{number}.wav" for number in range(600)]))
    assert list(look._kept) == ["memory://none"]
