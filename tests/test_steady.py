"""How many blocks may wait between two stages on Ray, and what of finished ones is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.data import DataContext

from latentsync_ray.pipeline import steady


class Operator(SimpleNamespace):
    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return id(self)


def operator(name: str, *, before: Any = None, waiting: int = 0, tasks: int = 0) -> Any:
    """One that blocks wait for, and that has some in tasks."""
    made = Operator(
        name=name, output_dependencies=[], waiting=waiting, num_active_tasks=lambda: tasks, _output_blocks_stats=[1, 2]
    )
    if before is not None:
        before.output_dependencies.append(made)
    return made


def asked(of: Any) -> bool:
    """Whether an operator gets a task more."""
    return steady._FewWaiting(DataContext(), Topology(of), None).can_add_input(of)


class Topology(list[Any]):
    """Operators, and what waits before each."""

    def __init__(self, *all_: Any) -> None:
        super().__init__(all_)

    def __getitem__(self, one: Any) -> Any:
        return SimpleNamespace(total_enqueued_input_blocks=lambda: one.waiting, input_queues=getattr(one, "queues", []))


@pytest.mark.parametrize(
    ("after", "waiting", "tasks", "more"),
    [
        ("FlatMap(crop)", 63, 0, True),
        ("FlatMap(crop)", 64, 0, False),
        ("Map(_ModelWorker)", 64, 3, False),
        ("FlatMap(plan_and_track)", 190, 100, True),
        ("FlatMap(plan_and_track)", 200, 100, False),
        ("FlatMap(_begin)->FlatMap(_one_by_one)", 64, 0, False),
        ("StreamingRepartition[num_rows_per_block=1,strict=False]", 64, 0, False),
        ("Sort", 10_000, 0, True),
        ("MapBatches(theirs)", 10_000, 0, True),
    ],
)
def test_no_task_is_begun_while_enough_waits_before_the_next_stage(after: str, waiting: int, tasks: int, more: bool) -> None:
    first = operator("FlatMap(paste)")
    operator(after, before=first, waiting=waiting, tasks=tasks)
    assert asked(first) is more
    assert asked(operator("FlatMap(paste)")), "what the driver takes has no queue"


def test_what_is_noted_of_finished_blocks_is_dropped_and_the_users_is_not() -> None:
    ours, theirs = operator("FlatMap(crop)"), operator("MapBatches(theirs)")
    for each in (ours, theirs):
        asked(each)
    assert (ours._output_blocks_stats, theirs._output_blocks_stats) == ([], [1, 2])


def test_where_ray_data_is_built_otherwise_all_runs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(operator("FlatMap(crop)", before=SimpleNamespace(name="Map(_ModelWorker)", output_dependencies=[])))
    monkeypatch.setattr(steady, "_ray", None)
    context = DataContext()
    steady.steady(context)
    assert context.get_config("backpressure_policies.enabled", None) is None


def test_a_datasets_own_policies_stay() -> None:
    context = DataContext()
    steady.steady(context)
    names = [each.__name__ for each in context.get_config("backpressure_policies.enabled", [])]
    assert names[-1] == "_FewWaiting"
    assert len(names) > 1
