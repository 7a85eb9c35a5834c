"""What each stage has in work on Ray, as Ray Data's scheduler sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech

from latentsync_ray import Cluster, Job, Pair, Recipe
from latentsync_ray.pairs import Pairs
from latentsync_ray.pipeline import one_pass, prepare, watch
from latentsync_ray.pipeline.watch import Operators, watched
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord


class Operator:
    def __init__(self, name: str, tasks: int, waiting: int) -> None:
        self.name, self.waiting = name, waiting
        self.num_active_tasks = lambda: tasks


def executor(*operators: tuple[str, int, int]) -> SimpleNamespace:
    """Operators by name, each with its tasks and the blocks that wait before it."""
    each = [Operator(*operator) for operator in operators]
    return SimpleNamespace(
        _topology={one: SimpleNamespace(total_enqueued_input_blocks=lambda one=one: one.waiting) for one in each}
    )


def test_tasks_and_what_waits_for_them_are_counted_by_stage() -> None:
    operators = Operators("a")
    operators.look(
        executor(
            ("Input", 0, 50),
            ("StreamingRepartition[1]", 1, 40),
            ("FlatMap(plan_and_track)", 2, 30),
            ("StreamingRepartition[1]", 1, 3),
            ("FlatMap(crop)", 1, 4),
            ("Map(_ModelWorker)", 3, 5),
            ("FlatMap(paste)", 0, 0),
        )
    )
    assert UnderWay.of(operators.counts) == UnderWay.of({"track": 6, "crop": 5, "generate": 8})


def test_where_ray_data_is_built_otherwise_nothing_is_told() -> None:
    with watched() as operators:
        dataset = SimpleNamespace(context=SimpleNamespace())
        operators.listen(dataset)  # pyright: ignore[reportArgumentType]
        assert vars(dataset.context) == {}
        context = SimpleNamespace(get_config=lambda key, default: operators._name)
        for other in (SimpleNamespace(), SimpleNamespace(_data_context=context), SimpleNamespace(_topology={})):
            watch._Step().on_execution_step(other)
        assert UnderWay.of(operators.counts) == UnderWay()
        one = executor(("FlatMap(plan_and_track)", 1, 0))
        one._data_context = context
        operators._looked = 0.0
        watch._Step().on_execution_step(one)
        assert operators.counts == {"track": 1}


def test_nothing_is_left_of_what_was_watched() -> None:
    with watched() as operators:
        operators.look(executor(("FlatMap(plan_and_track)", 2, 0)))
        assert operators.counts == {"track": 2}
    assert not watch._WATCHED
    assert operators.counts == {}


@pytest.mark.usefixtures("ray_cluster")
def test_a_pass_on_ray_tells_what_each_stage_has_in_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage is seen at work at one time or other, before the first frames come, too."""
    monkeypatch.setattr(watch, "_EVERY", 0.0)
    seen: list[UnderWay] = []
    asked: list[Callable[[], UnderWay]] = []
    look = Operators.look

    def looked(self: Operators, executor: object) -> None:
        look(self, executor)
        seen.append(asked[0]())

    monkeypatch.setattr(Operators, "look", looked)
    audio = str(write_speech(tmp_path / "speech.wav", speech_like(0.8)))
    video = str(write_clip(tmp_path / "talk.mp4", portrait(20)))
    pairs = [Pair(clip_id=f"talk{number}", video=video, audio=audio) for number in range(3)]
    recipe = Recipe(model="tiny-random", detector="embedded", steps=1, preset="ultrafast")
    job = Job(manifest="none", output=str(tmp_path / "out"), recipe=recipe, cluster=Cluster(no_progress_seconds=240))
    made = list(one_pass(Pairs.of(pairs), prepare(job), watch=asked.append))
    assert sum(isinstance(each, ClipRecord) and each.ok for each in made) == 3
    assert any(work.clips.get("track") for work in seen)
    assert {stage for work in seen for stage in work.segments} == {"crop", "generate", "paste"}
    assert asked[0]() == UnderWay()
