"""Parts that arrive, and where their clips are joined."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from processes import descendants

from latentsync_ray import Cluster, Job, Recipe
from latentsync_ray.errors import BelowQuality, NoFace
from latentsync_ray.pipeline import joins, prepare
from latentsync_ray.pipeline.joins import Arrivals, Gathering, Joins, Taken, freest
from latentsync_ray.stages.join import Join
from latentsync_ray.types import ClipRecord, Part


def part(index: int, key: str = "k", clip_id: str = "a") -> Part:
    return Part(clip_id=clip_id, video="v", audio="s", key=key, index=index, segment_count=3, uri=f"{key}/{index}")


def test_a_clip_is_complete_with_its_last_part() -> None:
    arrived = Arrivals()
    assert arrived.complete_with(part(2)) is None
    assert arrived.complete_with(part(0)) is None
    assert arrived.complete_with(part(1, clip_id="b")) is None
    assert not arrived.is_new(part(0)), "a task that is run again gives it once more"
    assert arrived.complete_with(part(0)) is None
    assert arrived.is_new(part(1))
    assert [each.index for each in arrived.complete_with(part(1)) or []] == [2, 0, 1]
    assert arrived, "of the other clip"
    arrived.forget("b")
    assert not arrived


class _Withholds:
    recipe = Recipe(model="toy:TOY", detector="embedded")

    def __call__(self, parts: list[Part]) -> ClipRecord:
        failed = BelowQuality("blurred")
        failed.learned = {"attempts": [{"seed": 7, "passed": False}], "seed": 7}
        raise failed


def test_a_withheld_clip_keeps_what_is_known_of_its_attempts() -> None:
    record = joins.join_parts(cast("Join", _Withholds()), [replace(part(0), seed=9)], {})
    assert isinstance(record, ClipRecord)
    assert (record.error_code, record.status, record.seed) == ("below_quality", "failed", 7)
    assert record.attempts == [{"seed": 7, "passed": False}]


def test_parts_of_different_content_do_not_go_together() -> None:
    arrived = Arrivals()
    for key, index in (("old", 0), ("old", 1), ("new", 2), ("new", 0)):
        assert arrived.is_new(part(index, key))
        assert arrived.complete_with(part(index, key)) is None
    assert {each.key for each in arrived.complete_with(part(1, "new")) or []} == {"new"}
    assert not arrived


@pytest.mark.parametrize(
    ("room", "load", "node"),
    [
        ({"x": 4, "y": 4, "z": 4}, {}, "x"),
        ({"x": 4, "y": 4, "z": 4}, {"x": 1}, "y"),
        ({"x": 4, "y": 4, "z": 4}, {"x": 1, "y": 1, "z": 2}, "x"),
        ({"small": 4, "large": 64}, {"small": 1, "large": 8}, "large"),
        ({"x": 1, "y": 1}, {"x": 1, "y": 1}, None),
        ({"x": 1}, {"x": 1, "gone": 5}, None),
        ({}, {}, None),
    ],
)
def test_joins_go_where_there_is_most_room(room: dict[str, int], load: dict[str, int], node: str | None) -> None:
    assert freest(room, load) == node


def test_parts_are_gathered_by_clip_in_any_order_and_copies_told_apart() -> None:
    gathering = Gathering()
    first, second, third = (part(index) for index in range(3))
    assert gathering.take(second, "row") == Taken()
    assert gathering.take(part(1), "row") == Taken(copied=True), "it is in the file of the other"
    assert gathering.take(part(0, "other"), "another") == Taken(copied=True, stray=True)
    assert gathering.take(first, "row") == Taken()
    assert gathering.take(third, "row").parts == [second, first, third]
    assert gathering.take(part(0), "row") == Taken(copied=True), "nor is it removed while they are joined"
    assert gathering.joined("a"), "but afterwards"
    assert not gathering.joined("a")
    assert gathering.take(part(0), "row") == Taken(copied=True, stray=True)


def test_two_clips_do_not_get_one_file() -> None:
    gathering = Gathering()
    first, second = (Part.of(part(0, clip_id=name), clip_name="Talk/de") for name in ("a", "b"))
    assert gathering.take(first, "row") == Taken()
    assert gathering.take(second, "another") == Taken(copied=True, stray=True)
    twin = Part.of(part(0, clip_id="c"), clip_name="talk/DE")
    assert gathering.take(twin, "third") == Taken(copied=True, stray=True), "one file on disks that know no case"
    assert gathering.take(part(0, clip_id="A"), "fourth") == Taken()


def test_of_a_failed_clip_only_the_first_error_is_told() -> None:
    gathering = Gathering()
    failed = [Part.of_failed(part(index), NoFace(f"nobody in {index}")) for index in (1, 2)]
    assert gathering.take(failed[0], "row").parts == [failed[0]]
    assert gathering.take(failed[1], "row") == Taken()
    assert gathering.take(part(0), "row") == Taken()
    unread = Part(clip_id="b", video="v", audio="a", error_code="unreadable_video", error="")
    assert gathering.take(unread, "row").parts == [unread]
    assert gathering.take(unread, "row").copied


class Slow:
    """A join that says who it is, and takes as long as the clip's id says before it publishes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, parts: list[Part]) -> ClipRecord:
        (self.folder / f"{parts[0].clip_id}.pid").write_text(str(os.getpid()))
        time.sleep(float(parts[0].clip_id))
        (self.folder / f"{parts[0].clip_id}.mp4").write_text("published")
        return ClipRecord.of(parts[0], status="ok")


def test_joins_that_nobody_waits_for_do_not_publish_later(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "_LAST_SECONDS", 3.0)
    stage: Any = Slow(tmp_path)
    under_way = Joins(stage)
    for clip_id in ("0.5", "600"):
        assert list(under_way.start([part(0, clip_id=clip_id)])) == []
    until = time.monotonic() + 60
    while not (tmp_path / "600.pid").exists() or not (tmp_path / "0.5.pid").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    began = time.monotonic()
    under_way.close()
    assert time.monotonic() - began < 15
    assert under_way.running == 0
    assert (tmp_path / "0.5.mp4").exists(), "it was about to end"
    process = int((tmp_path / "600.pid").read_text())
    while process in descendants(os.getpid()):
        assert time.monotonic() - began < 30, "ended, and its worker with it"
        time.sleep(0.05)
    assert not (tmp_path / "600.mp4").exists()
    under_way.close()


def test_a_prepared_job_says_how_many_workers_it_has(ray_cluster: None, tmp_path: Path) -> None:
    recipe = Recipe(model="tiny-random", detector="embedded")
    for asked, workers in ((None, (1, 1)), ((1, 3), (1, 3))):
        cluster = Cluster(device="cpu", generate_workers=asked)
        job = prepare(Job(manifest="m", output=tmp_path, recipe=recipe, cluster=cluster))
        assert job.cluster.generate_workers == workers
