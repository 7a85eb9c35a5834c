"""An output folder in numbers: plain data for whoever shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray.errors import headline, is_transient
from latentsync_ray.records import read_records
from latentsync_ray.speed import speed_line
from latentsync_ray.stages.table import TIMED

__all__ = ["Failures", "Report", "SlowClip", "summarise"]


_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """The clips that failed with one error code."""

    code: str
    count: int
    transient: bool
    """Running again tries them again by itself."""
    clip_id: str
    """One of them, and what it was told."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowClip:
    """One clip and the seconds that all stages together worked on it."""

    clip_id: str
    seconds: float
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An output folder in numbers. Seconds of stages are those of single workers, added up."""

    output: str
    clips: int
    ok: int
    failed: int
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
    cost: float | None
    """Dollars by the tariff of the server that made them; None when no server did."""
    speed: str
    """How busy the model's device was, and how near to its peak, in a line; empty when it is not known."""

    @property
    def frames_per_second(self) -> dict[str, float]:
        """Stage -> output frames per second of one worker; stages that took no time are left out."""
        return {stage: self.frames / seconds for stage, seconds in self.stage_seconds.items() if seconds > 0}


def summarise(output: str, *, slowest: int = 5, peak: float | None = None) -> Report:
    """Count what the records of ``output`` say. Raises ConfigError when there are none.

    ``peak``, in TFLOP/s, is that of a card which is not known here.
    """
    numbers = ["frames", "frames_without_face", "duration", "bytes", *(f"{stage}_seconds" for stage in TIMED)]
    told = ["clip_id", "status", "error_code", "error", "cost", "card", "precision", "idle_seconds", "tflop"]
    table = read_records(output, columns=[*told, *numbers])
    column = {name: table[name].fill_null(0).to_numpy() for name in numbers}
    seconds = np.sum([column[f"{stage}_seconds"] for stage in TIMED], axis=0)
    failed = table.filter(table["error_code"].is_valid()).select(["clip_id", "error_code", "error"]).to_pylist()
    stage_seconds = {stage: float(column[f"{stage}_seconds"].sum()) for stage in TIMED}
    by_code: dict[str, list[dict[str, str]]] = {}
    for row in failed:
        by_code.setdefault(row["error_code"], []).append(row)
    return Report(
        output=output,
        clips=len(table),
        ok=len(table) - len(failed),
        failed=len(failed),
        failures=[
            Failures(
                code=code,
                count=len(rows),
                transient=is_transient(code),
                clip_id=rows[0]["clip_id"],
                message=headline(rows[0]["error"]),
            )
            for code, rows in sorted(by_code.items(), key=lambda item: -len(item[1]))
        ],
        cost=_sum(table["cost"].to_pylist()),
        frames=int(column["frames"].sum()),
        frames_without_face=int(column["frames_without_face"].sum()),
        output_seconds=float(column["duration"].sum()),
        bytes=int(column["bytes"].sum()),
        stage_seconds=stage_seconds,
        speed=_speed(table, stage_seconds, peak),
        slowest=[
            SlowClip(clip_id=table["clip_id"][row].as_py(), seconds=float(seconds[row]), frames=int(column["frames"][row]))
            for row in np.argsort(-seconds, kind="stable")[:slowest].tolist()
            if seconds[row] > 0
        ],
    )


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
