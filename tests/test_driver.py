"""What a run tells of itself from its first moment to its last."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentsync_ray import Cluster, ConfigError, Job, Pair, Recipe, read_records, run
from latentsync_ray.driver import dub as dub_pairs
from latentsync_ray.errors import NoFace, TryAgain
from latentsync_ray.pairs import PassBroken
from latentsync_ray.resources import Budget
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.stages.rows import in_time
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord, Part


class Heard:
    """A display that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def phase(self, text: str) -> None:
        self.told.append(text)

    def under_way(self, ask: Callable[[], UnderWay]) -> None:
        assert not ask().segments

    def start(self, total: int, done: int) -> None:
        self.told.append(f"start {total} {done}")

    def frames(self, count: int) -> None:
        self.told.append(f"frames {count}")

    def clip(self, record: ClipRecord) -> None:
        self.told.append(f"clip {record.clip_id}")

    def note(self, text: str) -> None:
        self.told.append(f"note {text}")

    def stop(self) -> None:
        self.told.append("stop")


def job(folder: Path) -> Job:
    for name in ("v.mp4", "a.wav"):
        (folder / name).write_bytes(b"")
    (folder / "pairs.csv").write_text("clip_id,video,audio\nanna,v.mp4,a.wav\n")
    recipe = Recipe(model="tiny-random", detector="embedded")
    return Job(manifest=folder / "pairs.csv", output=folder / "out", recipe=recipe, cluster=Cluster(runner="local"))


def done(pair: Pair, job: Job) -> ClipRecord:
    recipe = job.recipe.fingerprint()
    return ClipRecord(clip_id=pair.clip_id, video=pair.video, audio=pair.audio, status="ok", frames=32, recipe=recipe)


def dub(pairs: Iterable[Pair], job: Job, *, on_phase: Callable[[str], None], **_: Any) -> Iterator[Part | ClipRecord]:
    """A runner without a model."""
    for pair in pairs:
        on_phase("loading the model")
        yield Part(clip_id=pair.clip_id, video=pair.video, audio=pair.audio, stop=32, segment_count=1)
        yield done(pair, job)


def test_a_clip_that_kills_its_workers_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[str]] = []

    def dying(pairs: list[Pair], job: Job, **_: Any) -> Iterator[ClipRecord]:
        passes.append([pair.clip_id for pair in pairs])
        if "killer" not in passes[-1]:
            yield from (done(pair, job) for pair in pairs)

    monkeypatch.setattr("latentsync_ray.local.one_pass", dying)
    pairs = [Pair(clip_id=name, video="v.mp4", audio="a.wav") for name in ("anna", "killer", "ben")]
    records = {each.clip_id: each for each in dub_pairs(pairs, job(tmp_path)) if isinstance(each, ClipRecord)}
    assert passes == [["anna", "killer", "ben"]] * 2 + [["anna"], ["killer"], ["ben"]]
    assert {name: record.error_code for name, record in records.items()} == {"anna": None, "ben": None, "killer": "worker_died"}


def test_every_phase_is_told_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentsync_ray.local.one_pass", dub)
    heard = Heard()
    run(job(tmp_path), progress=heard)
    assert [told for told in heard.told if not told.startswith("note")] == [
        "reading the manifest",
        "reading the records of earlier runs",
        "checking the inputs",
        "checking the model",
        "start 1 0",
        "loading the model",
        "dubbing",
        "frames 32",
        "clip anna",
        "writing the table",
        "stop",
    ]


def test_a_run_that_breaks_off_tells_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    with pytest.raises(ConfigError, match="cannot read the manifest"):
        run(Job(manifest=tmp_path / "nowhere.csv", output=tmp_path / "out"), progress=heard)
    assert heard.told == ["reading the manifest", "stop"]

    def broken(pairs: Iterable[Pair], job: Job, *, on_phase: Callable[[str], None], **_: Any) -> Iterator[Part | ClipRecord]:
        logging.getLogger("latentsync_ray.pipeline").warning("a worker died")
        yield from ()
        raise ZeroDivisionError

    monkeypatch.setattr("latentsync_ray.local.one_pass", broken)
    heard = Heard()
    with pytest.raises(ZeroDivisionError):
        run(job(tmp_path), progress=heard)
    assert heard.told[-2:] == ["note a worker died", "stop"]


def test_clips_whose_worker_died_are_tried_again_and_then_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[tuple[list[str], bool]] = []

    def one_pass(pairs: Iterable[Pair], job: Job, *, first: bool, **_: Any) -> Iterator[Part | ClipRecord]:
        """Of three clips one is dubbed, one needs a second pass, and one is never finished."""
        passes.append(([pair.clip_id for pair in pairs], first))
        for pair in pairs:
            part = Part(clip_id=pair.clip_id, video="v", audio="a", stop=32, segment_count=1)
            yield part
            if pair.clip_id == "good" or (pair.clip_id == "slow" and not first):
                yield ClipRecord.of(part, status="ok")

    monkeypatch.setattr("latentsync_ray.local.one_pass", one_pass)
    pairs = [Pair(clip_id=clip_id, video="v", audio="a") for clip_id in ("good", "slow", "fatal")]
    several = job(tmp_path).model_copy(update={"cluster": Cluster(runner="local", passes=3)})
    records = [result for result in dub_pairs(pairs, several) if isinstance(result, ClipRecord)]
    assert [(record.clip_id, record.error_code) for record in records] == [
        ("good", None),
        ("slow", None),
        ("fatal", "worker_died"),
    ]
    assert "not finished in 3 passes" in str(records[-1].error)
    assert passes == [(["good", "slow", "fatal"], True), (["slow", "fatal"], False), (["fatal"], False)]


def test_a_pass_that_breaks_off_is_not_counted_if_it_finished_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def one_pass(pairs: Iterable[Pair], job: Job, *, first: bool, **_: Any) -> Iterator[Part | ClipRecord]:
        """One clip in each pass, until only the fatal one is left."""
        seen.append([pair.clip_id for pair in pairs])
        assert first == (len(seen) == 1)
        for pair in list(pairs)[:1]:
            if pair.clip_id != "fatal":
                yield done(pair, job)
        raise PassBroken

    monkeypatch.setattr("latentsync_ray.local.one_pass", one_pass)
    names = ["a", "b", "c", "fatal"]
    twice = job(tmp_path).model_copy(update={"cluster": Cluster(runner="local", passes=2)})
    made = list(dub_pairs([Pair(clip_id=name, video="v", audio="a") for name in names], twice))
    codes = [(record.clip_id, record.error_code) for record in made if isinstance(record, ClipRecord)]
    assert codes == [("a", None), ("b", None), ("c", None), ("fatal", "worker_died")]
    assert seen == [names, names[1:], names[2:], ["fatal"], ["fatal"]]


def three(folder: Path, **changes: Any) -> Job:
    """A job of three clips."""
    one = job(folder)
    (folder / "pairs.csv").write_text("clip_id,video,audio\n" + "".join(f"{name},v.mp4,a.wav\n" for name in "abc"))
    return one.model_copy(update=changes)


def test_a_limit_leaves_the_others_for_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentsync_ray.local.one_pass", dub)
    first, second, third = (run(three(tmp_path, limit=2)) for _ in range(3))
    assert (first.ok, first.left, first.exit_code) == (2, 1, 0)
    assert (second.ok, second.left, second.done_before) == (1, 0, 2)
    assert (third.ok, third.left, third.done_before) == (0, 0, 3)


def test_when_its_time_is_up_a_run_begins_no_other_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(pairs: Iterable[Pair], job: Job, *, deadline: float, **_: Any) -> Iterator[Part | ClipRecord]:
        assert abs(deadline - time.time() - 3600) < 60
        first, *others = pairs
        yield done(first, job)
        yield from (failed_record(in_time(pair, deadline=1.0), job.recipe) for pair in others)

    monkeypatch.setattr("latentsync_ray.local.one_pass", late)
    timed = three(tmp_path, time_limit=3600.0)
    heard = Heard()
    summary = run(timed, progress=heard)
    assert (summary.ok, summary.failed, summary.left, summary.stopped, summary.exit_code) == (1, 0, 2, "time_limit", 3)
    assert [told for told in heard.told if told.startswith("clip")] == ["clip a"]
    assert read_records(timed.output)["clip_id"].to_pylist() == ["a"], "clips without a turn have no row"
    monkeypatch.setattr("latentsync_ray.local.one_pass", dub)
    assert (run(timed).ok, run(timed).exit_code) == (2, 0)


def test_failures_count_more_than_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_pass(pairs: Iterable[Pair], job: Job, **_: Any) -> Iterator[Part | ClipRecord]:
        first, *others = pairs
        yield failed_record(first, job.recipe, NoFace("nobody"))
        yield from (failed_record(in_time(pair, deadline=1.0), job.recipe) for pair in others)

    monkeypatch.setattr("latentsync_ray.local.one_pass", one_pass)
    summary = run(three(tmp_path, time_limit=1.0))
    assert (summary.failed, summary.left, summary.exit_code) == (1, 2, 1)


def part(pair: Pair, *, found: bool = False, seconds: float = 9.0) -> Part:
    """A segment of 32 frames that took a device ten seconds."""
    made = Part(clip_id=pair.clip_id, video=pair.video, audio=pair.audio, stop=32, segment_count=1, found=found)
    return replace(made, generate_seconds=seconds, idle_seconds=1.0)


def test_what_is_only_found_again_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_pass(pairs: Iterable[Pair], job: Job, **_: Any) -> Iterator[Part | ClipRecord]:
        for pair in pairs:
            yield part(pair, found=pair.clip_id != "c")
            yield done(pair, job)

    monkeypatch.setattr("latentsync_ray.local.one_pass", one_pass)
    heard = Heard()
    summary = run(three(tmp_path, budget=Budget(gpu_hours=20 / 3600)), progress=heard)
    assert (summary.ok, summary.stopped, summary.exit_code) == (3, "", 0)
    assert summary.frames == 32, "by this run"
    assert heard.told.count("frames 32") == 1


def test_a_budget_counts_one_more_segment_of_each_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_pass(pairs: Iterable[Pair], job: Job, **_: Any) -> Iterator[Part | ClipRecord]:
        for pair in pairs:
            yield part(pair)
            yield done(pair, job)

    def prepare(job: Job) -> Job:
        return job.model_copy(update={"cluster": Cluster(runner="local", generate_workers=(1, 4))})

    monkeypatch.setattr("latentsync_ray.local.one_pass", one_pass)
    asked = three(tmp_path, budget=Budget(gpu_hours=35 / 3600))
    assert run(asked).stopped == "", "at the end there is no other one"
    monkeypatch.setattr("latentsync_ray.local.prepare", prepare)
    heard = Heard()
    summary = run(asked.model_copy(update={"retry": ("all",)}), progress=heard)
    assert (summary.ok, summary.left, summary.stopped, summary.exit_code) == (0, 3, "budget", 3)
    (told,) = (told for told in heard.told if "stopping early" in told)
    assert "devices took 10.0 s, and the next segment, of up to 10.0 s, could exceed the budget" in told
    assert "Each run keeps what is finished and makes at least one segment more" in told


def test_a_budget_counts_clips_that_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def one_pass(pairs: Iterable[Pair], job: Job, **_: Any) -> Iterator[Part | ClipRecord]:
        for pair in pairs:
            tries.append(pair.clip_id)
            yield part(pair)
            yield failed_record(pair, job.recipe, TryAgain("blurred")) if len(tries) < 20 else done(pair, job)

    monkeypatch.setattr("latentsync_ray.local.one_pass", one_pass)
    heard = Heard()
    summary = run(three(tmp_path, budget=Budget(gpu_hours=45 / 3600)), progress=heard)
    assert (summary.ok, summary.failed, summary.left, summary.stopped, summary.exit_code) == (0, 0, 3, "budget", 3)
    assert tries == ["a", "b", "c", "a"]
    assert "note 3 clips below the job's quality: made again" in heard.told
    assert sum("clip " in told and "try_again" in told for told in heard.told) == 0


def test_what_is_left_keeps_its_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentsync_ray.local.one_pass", dub)
    segment = tmp_path / "out" / "_work" / "parts" / "c" / "key" / "00000.mp4"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(b"of a run that was killed")
    assert run(three(tmp_path, limit=2)).left == 1
    assert segment.exists()
    assert run(three(tmp_path)).left == 0
    assert not segment.exists()


@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_runners_begin_nothing_after_the_deadline(runner: str, tmp_path: Path) -> None:
    cluster = Cluster(runner=runner, device="cpu")  # pyright: ignore[reportArgumentType]
    summary = run(three(tmp_path, time_limit=1e-6, cluster=cluster))
    assert (summary.ok, summary.failed, summary.left, summary.exit_code) == (0, 0, 3, 3)
