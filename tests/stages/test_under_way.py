"""What is in work, counted and told."""

from __future__ import annotations

from threading import Thread

from latentsync_ray.stages.table import STAGES
from latentsync_ray.stages.under_way import Gauge, UnderWay
from latentsync_ray.types import ClipPlan, Pair


def test_it_is_told_by_stage_in_the_order_of_the_pipeline() -> None:
    work = UnderWay.of({"generate": 3, "join": 1, "crop": 1, "track": 2, "paste": 0})
    assert work.text == "4 segments (1 crop, 3 generate) and 3 clips (2 track, 1 join) under way"
    assert work.short == "7 under way, 3 in generate"
    assert UnderWay.of({"plan": 1}).text == "1 clip (1 plan) under way"
    assert UnderWay().text == UnderWay().short == ""


def test_every_stage_counts_as_what_it_takes() -> None:
    work = UnderWay.of(dict.fromkeys([*(stage.name for stage in STAGES), "join"], 1))
    clips = [stage.name for stage in STAGES if stage.takes in (Pair, ClipPlan)]
    assert list(work.clips) == [*clips, "join"]
    assert list(work.segments) == [stage.name for stage in STAGES if stage.name not in clips]


def test_a_gauge_hears_from_many_threads() -> None:
    gauge = Gauge()

    def work() -> None:
        for _ in range(1000):
            gauge.enter("crop")
            gauge.leave("crop")
            gauge.enter("paste")
            gauge.enter(None)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gauge() == UnderWay.of({"paste": 4000})
    gauge.empty()
    assert gauge() == UnderWay()
