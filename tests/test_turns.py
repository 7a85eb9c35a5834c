"""The order in which blocks that wait are taken, on Ray Data's own queues."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.data import DataContext
from ray.data._internal.execution.streaming_executor_state import OpBufferQueue

from latentsync_ray.pipeline import steady
from latentsync_ray.pipeline.turns import Turns, take_turns


class Thing(SimpleNamespace):
    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return id(self)


def block(clip: int | None, number: int) -> Any:
    """One of a row, made by the task of that clip."""
    told = Thing(exec_stats=Thing(task_idx=clip))
    return Thing(
        name=(clip, number),
        metadata=[told],
        block_refs=[None],
        size_bytes=lambda: 10,
        num_rows=lambda: 1,
        output_split_idx=None,
    )


def filled(*clips: tuple[int | None, int]) -> Turns:
    """Clips and how many blocks they have."""
    turns = Turns()
    for clip, count in clips:
        for number in range(count):
            turns.add(block(clip, number))
    return turns


def taken(turns: Turns, count: int) -> list[tuple[int | None, int]]:
    names = []
    for _ in range(count):
        peeked = turns.peek_next()
        names.append(turns.get_next().name)
        assert peeked.name == names[-1]
    return names


def test_a_long_clip_and_the_short_ones_behind_it_take_turns() -> None:
    turns = filled((0, 100), (1, 1), (2, 2), (3, 1))
    assert taken(turns, 6) == [(0, 0), (1, 0), (0, 1), (3, 0), (0, 2), (2, 0)]
    turns.add(block(4, 0))
    assert taken(turns, 6) == [(0, 3), (2, 1), (0, 4), (4, 0), (0, 5), (0, 6)]
    assert (turns.clips, len(turns), turns.num_blocks(), turns.estimate_size_bytes()) == (1, 93, 93, 930)


def test_a_second_long_clip_gets_on_when_no_shorter_one_waits() -> None:
    turns = filled((0, 4), (1, 3))
    assert [clip for clip, _ in taken(turns, 7)] == [0, 1, 0, 1, 0, 1, 0]
    assert (turns.has_next(), turns.peek_next()) == (False, None)
    with pytest.raises(IndexError):
        turns.get_next()


def test_blocks_of_unknown_clips_keep_their_order() -> None:
    assert taken(filled((None, 3)), 3) == [(None, 0), (None, 1), (None, 2)]
    turns = filled((0, 2), (1, 2))
    assert [each.name for each in turns] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    turns.clear()
    assert (len(turns), turns.clips, list(turns)) == (0, 0, [])


def test_clips_take_turns_too_when_their_blocks_are_cut_up_first() -> None:
    model = Thing(name="Map(_ModelWorker)", output_dependencies=[])
    crop = Thing(name="FlatMap(crop)", output_dependencies=[model])
    cut = Thing(name="StreamingRepartition[num_rows_per_block=1,strict=False]", output_dependencies=[crop])
    track = Thing(name="FlatMap(plan_and_track)", output_dependencies=[cut])
    for before, after in ((track, cut), (cut, crop), (crop, model)):
        after.input_dependencies = [before]
    states = {each: Thing(input_queues=[OpBufferQueue(1)]) for each in (track, cut, crop, model)}
    steady._FewWaiting(DataContext(), states, None)
    turning = [each for each, state in states.items() if isinstance(state.input_queues[0]._queues[0]._inner, Turns)]
    assert turning == [cut, crop]


def operators(waiting: int) -> tuple[Any, Any, dict[Any, Any]]:
    """Those of ``track`` and ``crop``, and a topology of Ray Data's kind: one clip has so many blocks before the second."""
    queue = OpBufferQueue(1)
    for number in range(waiting):
        queue.append(block(0, number))
    crop = Thing(name="FlatMap(crop)", output_dependencies=[], num_active_tasks=lambda: 0)
    track = Thing(name="FlatMap(plan_and_track)", output_dependencies=[crop], _output_blocks_stats=[])
    state = Thing(input_queues=[queue], total_enqueued_input_blocks=lambda: queue.num_blocks)
    return track, crop, {track: None, crop: state}


@pytest.mark.parametrize(("blocks", "more"), [(63, True), (1000, True), (4096, False)])
def test_a_long_clip_counts_as_one_that_waits(blocks: int, more: bool) -> None:
    track, _, topology = operators(blocks)
    assert steady._FewWaiting(DataContext(), topology, None).can_add_input(track) is more


def test_what_waits_already_is_taken_over() -> None:
    _, crop, topology = operators(3)
    turns = take_turns(topology[crop])
    assert turns is not None
    topology[crop].input_queues[0].append(block(1, 0))
    assert [topology[crop].input_queues[0]._queues[0].get_next().name for _ in range(4)] == [(0, 0), (1, 0), (0, 1), (0, 2)]
    assert take_turns(Thing(input_queues=[Thing()])) is None
