"""The table of stages: one list for runners, records and what is asked of Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentsync_ray import stages, types
from latentsync_ray.errors import InvalidPair
from latentsync_ray.records import RECORD_SCHEMA
from latentsync_ray.stages.rows import apply, task
from latentsync_ray.stages.table import STAGES, TIMED, Settings, Stage, chain, tasks
from latentsync_ray.types import ClipRecord, Pair, Part, Row

ASKED = Settings(None, "out")  # pyright: ignore[reportArgumentType]


def test_each_stage_takes_what_the_one_before_gives() -> None:
    assert [stage.takes for stage in STAGES[1:]] == [stage.gives for stage in STAGES[:-1]]
    assert (STAGES[0].takes, STAGES[-1].gives) == (Pair, Part)
    assert not STAGES[-1].with_next


def test_each_stage_has_its_column_of_seconds() -> None:
    """A stage that only looks may have none."""
    columns = [name.removesuffix("_seconds") for name in RECORD_SCHEMA.names if name.endswith("_seconds")]
    columns.remove("idle")  # of no stage: how long the device of one waited
    assert columns == list(TIMED)


def test_pictures_of_the_pipeline_show_its_stages() -> None:
    names = [*(stage.name for stage in STAGES), "join"]
    nouns = [Pair, *(stage.gives for stage in STAGES), ClipRecord]
    flow = "".join(f" --{verb}--> {noun.__name__}" for verb, noun in zip(names, nouns[1:], strict=True))
    assert f"Pair{flow}" in " ".join(str(types.__doc__).split())
    assert f"one verb a file: {', '.join(names)}." in str(stages.__doc__)
    readme = Path(stages.__file__).parents[2] / "README.md"
    assert f" {' --> '.join(names)} " in readme.read_text()


def test_one_stage_has_the_model_and_stands_alone() -> None:
    groups = list(tasks())
    assert [stage for group in groups for stage in group] == list(STAGES)
    assert [group for group in groups if any(stage.model for stage in group)] == [
        tuple(stage for stage in STAGES if stage.model)
    ]


def pair(name: str) -> Pair:
    return Pair(clip_id=name, video="v", audio="a")


def test_a_chain_hands_on_each_row_as_soon_as_it_is_there() -> None:
    seen: list[str] = []

    def double(row: Any) -> Iterator[Row]:
        for letter in "xy":
            seen.append(f"make {row.clip_id}{letter}")
            yield pair(f"{row.clip_id}{letter}")

    def look(row: Any) -> Row:
        seen.append(f"look at {row.clip_id}")
        return row

    first = next(chain([double, look], [pair("a")]))
    assert first.clip_id == "ax"
    assert seen == ["make ax", "look at ax"]
    assert [row.clip_id for row in chain([double, double], [pair("a")])] == ["axx", "axy", "ayx", "ayy"]


def test_a_stage_that_only_looks_stops_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that wants consent: the stages after it are not reached."""

    def consent(row: Any) -> Row:
        if row.clip_id == "refused":
            raise InvalidPair("nobody consented")
        return row

    def last(row: Any) -> Row:
        return Part.of(row)

    group = (
        Stage(name="consent", takes=Pair, gives=Pair, make=lambda _: consent, with_next=True),
        Stage(name="last", takes=Pair, gives=Part, make=lambda _: last),
    )
    monkeypatch.setattr("latentsync_ray.stages.rows.STAGES", group)
    run = task(group, ASKED)
    assert run.__name__ == "consent_and_last"
    assert [row["error_code"] for row in run(pair("refused").to_row())] == ["invalid_pair"]
    (row,) = run({**pair("fine").to_row(), "note": "carried"})
    assert (row["error_code"], row["note"], row["index"]) == (None, "carried", 0)


def test_what_failed_before_passes_by() -> None:
    def never(_: Any) -> Row:
        raise AssertionError("it failed already")

    failed = Pair.of_failed(pair("a"), InvalidPair("no"))
    (row,) = apply(never, failed.to_row(), Pair, Part)
    assert row["error_code"] == "invalid_pair"
