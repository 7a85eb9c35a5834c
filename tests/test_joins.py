"""Parts that arrive, and where their clips are joined."""

from __future__ import annotations

import pytest

from latentsync_ray.errors import NoFace
from latentsync_ray.pipeline.joins import Arrivals, Gathering, Taken, freest
from latentsync_ray.types import Part


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


def test_of_a_failed_clip_only_the_first_error_is_told() -> None:
    gathering = Gathering()
    failed = [Part.of_failed(part(index), NoFace(f"nobody in {index}")) for index in (1, 2)]
    assert gathering.take(failed[0], "row").parts == [failed[0]]
    assert gathering.take(failed[1], "row") == Taken()
    assert gathering.take(part(0), "row") == Taken()
    unread = Part(clip_id="b", video="v", audio="a", error_code="unreadable_video", error="")
    assert gathering.take(unread, "row").parts == [unread]
    assert gathering.take(unread, "row").copied
