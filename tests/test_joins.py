"""Parts that arrive, and where their clips are joined."""

from __future__ import annotations

import pytest

from latentsync_ray.pipeline.joins import Arrivals, freest
from latentsync_ray.types import Part


def part(index: int, key: str = "k", clip_id: str = "a") -> Part:
    return Part(clip_id=clip_id, video="v", audio="s", key=key, index=index, segment_count=3)


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
