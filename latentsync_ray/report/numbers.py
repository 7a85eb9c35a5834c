"""An output folder in numbers: plain data for whoever shows them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray import redact
from latentsync_ray.errors import headline, is_transient
from latentsync_ray.records import RECORD_SCHEMA, read_records
from latentsync_ray.report.course import Course, course_of
from latentsync_ray.report.worst import RANKED, Ranking, rankings
from latentsync_ray.speed import speed_line
from latentsync_ray.stages.table import TIMED

__all__ = ["Example", "Failures", "Language", "OutOfSync", "Report", "SlowClip", "summarise"]

_EXAMPLES = 3
"""Clips that are named of each error."""

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A clip that failed, and what it was told."""

    clip_id: str
    language: str | None = None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """The clips that failed with one error code."""

    code: str
    count: int
    transient: bool
    """Running again tries them again by itself."""
    examples: list[Example]
    """The first few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowClip:
    """One clip and the seconds that all stages together worked on it."""

    clip_id: str
    language: str | None = None
    seconds: float
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfSync:
    """A clip whose lips follow its sound less than others' do; see ``sync``."""

    clip_id: str
    language: str | None = None
    sync_score: float
    sync_offset_ms: float | None
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The clips whose speech is in one language."""

    language: str | None
    """None: neither the manifest nor the audio file says it."""
    clips: int
    failed: int
    frames: int
    seconds: float
    """Length of their finished videos together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An output folder in numbers. Seconds of stages are those of single workers, added up."""

    output: str
    clips: int
    ok: int
    failed: int
    first_finished_at: datetime | None
    last_finished_at: datetime | None
    failures: list[Failures]
    """Most frequent first."""
    frames: int
    frames_without_face: int
    output_seconds: float
    """Length of all finished videos together."""
    bytes: int
    stage_seconds: dict[str, float]
    """Stage -> seconds, in pipeline order."""
    slowest: list[SlowClip]
    """Slowest first."""
    least_in_sync: list[OutOfSync]
    """Lowest ``sync_score`` first; of finished clips that have one."""
    worst: list[Ranking]
    """By each measure that any clip has."""
    languages: list[Language]
    """Most clips first."""
    course: Course | None
    """What was finished when; None when no record says it."""
    cost: float | None
    """Dollars by the tariff of the server that made them; None when no server did."""
    speed: str
    """How busy the model's device was, and how near to its peak, in a line; empty when it is not known."""

    @property
    def frames_per_second(self) -> dict[str, float]:
        """Stage -> output frames per second of one worker; stages that took no time are left out."""
        return {stage: self.frames / seconds for stage, seconds in self.stage_seconds.items() if seconds > 0}

    def tried_again(self, failures: Failures) -> str:
        """Whether and when its clips are tried again, in words."""
        if self.cost is not None:  # a server's: nothing is made again unless somebody asks
            return "when asked again" if failures.transient else "no"
        return "by itself in the next run" if failures.transient else "with --retry failed"

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON has it, times as ISO 8601 text, addresses without secrets."""
        tree = asdict(self) | {"output": redact.shown(self.output), "frames_per_second": self.frames_per_second}
        for name in ("first_finished_at", "last_finished_at"):
            tree[name] = tree[name] and tree[name].isoformat()
        if tree["course"]:
            tree["course"]["start"] = tree["course"]["start"].isoformat()
        return tree


def summarise(output: str, *, slowest: int = 10, least_in_sync: int = 8, worst: int = 8, peak: float | None = None) -> Report:
    """Count what the records of ``output`` say. Raises ConfigError when there are none.

    ``slowest``, ``least_in_sync`` and, by each measure, ``worst`` are how many such clips are named; ``peak``, in TFLOP/s, is
    that of a card which is not known here. Messages are without secrets.
    """
    numbers = ["frames", "frames_without_face", "duration", "bytes", *(f"{stage}_seconds" for stage in TIMED)]
    told = ["clip_id", "status", "error_code", "error", "cost", "card", "precision", "idle_seconds", "tflop"]
    told += ["language", "finished_at", "sync_offset_ms", "fps", *(name for name in RANKED if name in RECORD_SCHEMA.names)]
    table = read_records(output, columns=[*told, *numbers])
    column = {name: np.nan_to_num(table[name].fill_null(0).to_numpy()) for name in numbers}
    seconds = np.sum([column[f"{stage}_seconds"] for stage in TIMED], axis=0)
    failed = table["error_code"].is_valid().to_numpy()
    stage_seconds = {stage: float(column[f"{stage}_seconds"].sum()) for stage in TIMED}
    finished = _pc.min_max(table["finished_at"]).as_py()
    return Report(
        output=output,
        clips=len(table),
        ok=int((~failed).sum()),
        failed=int(failed.sum()),
        first_finished_at=finished["min"],
        last_finished_at=finished["max"],
        failures=_failures(table.filter(pa.array(failed)).select(["clip_id", "language", "error_code", "error"])),
        cost=_sum(table["cost"].to_pylist()),
        frames=int(column["frames"].sum()),
        frames_without_face=int(column["frames_without_face"].sum()),
        output_seconds=float(column["duration"].sum()),
        bytes=int(column["bytes"].sum()),
        stage_seconds=stage_seconds,
        speed=_speed(table, stage_seconds, peak),
        slowest=[
            SlowClip(
                **{name: table[name][row].as_py() for name in ("clip_id", "language")},
                seconds=float(seconds[row]),
                frames=int(column["frames"][row]),
            )
            for row in np.argsort(-seconds, kind="stable")[:slowest].tolist()
            if seconds[row] > 0
        ],
        least_in_sync=_least_in_sync(table, least_in_sync),
        worst=rankings(table, worst),
        languages=_languages(table["language"], failed, column["frames"], column["duration"]),
        course=course_of(table["finished_at"], column["frames"], failed),
    )


def _failures(failed: pa.Table) -> list[Failures]:
    by_code: dict[str, list[dict[str, str]]] = {}
    for row in failed.to_pylist():
        by_code.setdefault(row["error_code"], []).append(row)
    return [
        Failures(
            code=code,
            count=len(rows),
            transient=is_transient(code),
            examples=[
                Example(clip_id=row["clip_id"], language=row["language"], message=redact.text(headline(row["error"]) or ""))
                for row in rows[:_EXAMPLES]
            ],
        )
        for code, rows in sorted(by_code.items(), key=lambda item: -len(item[1]))
    ]


def _least_in_sync(table: pa.Table, most: int) -> list[OutOfSync]:
    known = table.filter((_pc.field("status") != "failed") & _pc.is_finite(_pc.field("sync_score")))
    known = known.sort_by([("sync_score", "ascending"), ("clip_id", "ascending")])[:most]
    names = ["clip_id", "language", "sync_score", "sync_offset_ms", "frames"]
    return [OutOfSync(**{**row, "frames": row["frames"] or 0}) for row in known.select(names).to_pylist()]


def _languages(language: pa.ChunkedArray, failed: np.ndarray, frames: np.ndarray, seconds: np.ndarray) -> list[Language]:
    each = pa.table({"language": language, "failed": failed, "frames": frames, "seconds": seconds}).group_by("language")
    sums = each.aggregate([("failed", "count"), ("failed", "sum"), ("frames", "sum"), ("seconds", "sum")])
    rows = [
        Language(
            language=row["language"],
            clips=row["failed_count"],
            failed=row["failed_sum"],
            frames=int(row["frames_sum"]),
            seconds=row["seconds_sum"],
        )
        for row in sums.to_pylist()
    ]
    return sorted(rows, key=lambda row: (-row.clips, row.language or ""))


def _sum(costs: list[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return round(sum(known), 6) if known else None


def _speed(table: pa.Table, stage_seconds: dict[str, float], peak: float | None) -> str:
    drawn = table.filter(_pc.greater(_pc.fill_null(table["generate_seconds"], 0), 0))
    if drawn["idle_seconds"].null_count:  # of a version that did not know it
        return ""
    tflop = None if drawn["tflop"].null_count else _pc.sum(drawn["tflop"]).as_py()
    cards, precisions = ({each or "" for each in drawn[name].unique().to_pylist()} for name in ("card", "precision"))
    idle = _pc.sum(drawn["idle_seconds"]).as_py() or 0.0
    return speed_line(stage_seconds, idle=idle, tflop=tflop, cards=cards, precisions=precisions, peak=peak)
