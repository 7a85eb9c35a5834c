"""The line that says what bound a run."""

from __future__ import annotations

from typing import Any

import pytest

from latentsync_ray.cards import peak_of
from latentsync_ray.speed import Work, speed_line
from latentsync_ray.stages.table import TIMED
from latentsync_ray.types import ClipRecord

SECONDS = {"plan": 1.0, "track": 20.0, "crop": 50.0, "generate": 93.0, "paste": 40.0, "join": 1.0}
H100: dict[str, Any] = {"cards": {"NVIDIA H100 80GB HBM3"}, "precisions": {"cuda sm_90 x132 bfloat16, 4 windows"}}


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("A thing", None),
    ],
)
def test_peaks_go_by_the_name_of_the_card(card: str, peak: float | None) -> None:
    assert peak_of(card) == peak


def test_how_busy_how_near_to_its_peak_and_what_it_waited_for() -> None:
    waited = "7% waiting (crop took most of the other stages' time)"
    line = speed_line(SECONDS, idle=7.0, tflop=93 * 989 * 0.41, **H100)
    assert line == f"model on NVIDIA H100 80GB HBM3: 93% busy, at 41% of its peak; {waited}"


def test_a_peak_of_ones_own_holds() -> None:
    assert "at 50% of its peak" in speed_line(SECONDS, idle=0, tflop=93 * 100, peak=200, **H100)


def test_what_is_not_known_is_left_out() -> None:
    assert speed_line(SECONDS, idle=0.0, tflop=None, **H100) == "model on NVIDIA H100 80GB HBM3: 100% busy"
    full: dict[str, Any] = {"cards": {"NVIDIA H100 80GB HBM3"}, "precisions": {"cuda sm_90 x132 float32"}}
    assert speed_line(SECONDS, idle=0.0, tflop=1.0, **full) == "model on NVIDIA H100 80GB HBM3: 100% busy", (
        "the table is of bf16"
    )
    assert (
        speed_line(SECONDS, idle=0.0, tflop=1.0, cards={"cpu x86_64"}, precisions={"cpu float32"})
        == "model on cpu x86_64: 100% busy"
    )
    assert (
        speed_line({"generate": 1.0}, idle=1.0, tflop=1.0, cards={"a", "b"}, precisions=set())
        == "model on devices of several kinds: 50% busy; 50% waiting"
    )
    assert speed_line({"plan": 1.0}, idle=0.0, tflop=None, cards=set(), precisions=set()) == ""


def test_records_add_up() -> None:
    work = Work(TIMED)
    assert work.line() == ""
    card: dict[str, Any] = {"card": "NVIDIA H100 80GB HBM3", "precision": "cuda sm_90 x132 bfloat16"}
    for seconds in (1.0, 3.0):
        work.add(
            ClipRecord(
                clip_id="a",
                video="v",
                audio="a",
                generate_seconds=seconds,
                idle_seconds=seconds,
                crop_seconds=9.0,
                tflop=seconds * 98.9,
                **card,
            )
        )
    work.add(ClipRecord(clip_id="b", video="v", audio="a", plan_seconds=50.0))
    waited = "50% waiting (crop took most of the other stages' time)"
    assert work.line() == f"model on NVIDIA H100 80GB HBM3: 50% busy, at 10% of its peak; {waited}"
    work.add(ClipRecord(clip_id="c", video="v", audio="a", generate_seconds=1.0, **card))
    assert "peak" not in work.line(), "one was not counted"
