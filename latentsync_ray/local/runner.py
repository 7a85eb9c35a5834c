"""The runner of jobs in one process, and what the one on Ray is tested against."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise, takewhile, zip_longest
from typing import TYPE_CHECKING, cast

from latentsync_ray.ahead import apart
from latentsync_ray.config import Job
from latentsync_ray.local.model import LipSync, nobody
from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.stages.failures import Failing, failed_record
from latentsync_ray.stages.rows import attempt, raise_settings
from latentsync_ray.stages.table import STAGES, Call, Stage
from latentsync_ray.stages.under_way import Gauge, UnderWay
from latentsync_ray.types import ClipRecord, Pair, Part, Row

if TYPE_CHECKING:
    pass

__all__ = ["listener", "logs_folder", "one_pass", "prepare"]

_BEFORE_MODEL = next(before.name for before, stage in pairwise(STAGES) if stage.model)
"""The stage whose rows wait for the model."""


def prepare(job: Job) -> Job:
    """The job with one model worker, this process: nothing has to be ready."""
    return job.model_copy(update={"cluster": job.cluster.model_copy(update={"generate_workers": (1, 1)})})


def one_pass(
    pairs: Iterable[Pair],
    job: Job,
    *,
    first: bool = True,
    on_phase: Callable[[str], None] | None = None,
    watch: Callable[[Callable[[], UnderWay]], None] | None = None,
    deadline: float | None = None,
) -> Iterator[Part | ClipRecord]:
    """Dub pairs in their order: every part as it is encoded, and each clip's record when it is finished.

    While the model works on one clip, the next is read already.

    A bug becomes the record of the clip that met it, so none is left for a second pass. ``on_phase`` is told what is under way,
    in a few words, ``watch`` where to ask what each stage has in work. After ``deadline`` (seconds since 1970) no clip begins;
    those left get no record.
    """
    sink, phase = lookup(SINKS, job.sink, "sink")(job.output), on_phase or nobody
    phase("loading the model")
    memory = job.cluster.device_memory_gb and job.cluster.device_memory_gb * 1e9
    model = LipSync(
        job.output,
        recipe=job.recipe,
        device=job.cluster.device,
        sink=sink,
        commit=True,
        keep_faces=job.keep_faces,
        device_memory=memory,
        signing=job.signing,
        quality=job.quality,
    )
    phase("dubbing")
    gauge = Gauge()
    (watch or nobody)(gauge)
    with ExitStack() as stack:
        stack.callback(gauge.empty)
        failed: set[str] = set()
        told: set[str] = set()
        rows: Iterable[Row] = _entered(takewhile(lambda _: deadline is None or time.time() < deadline, pairs), gauge)
        for stage, after in zip_longest(STAGES, STAGES[1:]):
            rows = _attempted(stage, model.stages[stage.name], rows, failed, gauge, after and after.name)
            if stage.model or stage.name == _BEFORE_MODEL:  # the device goes on from clip to clip
                rows = made = apart(rows)
                stack.callback(_ended, made)
        parts: list[Part] = []
        for part in cast("Iterable[Part]", rows):
            if part.error_code:
                raise_settings(part)
                parts.clear()
                if part.clip_id not in told:  # two stages may have failed at once
                    told.add(part.clip_id)
                    yield failed_record(part, job.recipe)
                continue
            yield part
            parts.append(part)
            if len(parts) == part.segment_count:
                gauge.enter("join")
                with Failing() as met:
                    record = model.join(parts)
                gauge.leave("join")
                if met.failure is None:
                    yield record
                else:
                    yield failed_record(part, job.recipe, met.failure)
                parts.clear()


def _ended(rows: Generator[Row]) -> None:
    """Close what nobody takes from any more; a thread that still does after all patience does not hear it."""
    with suppress(ValueError):
        rows.close()


def _entered(pairs: Iterable[Row], gauge: Gauge) -> Iterator[Row]:
    """The same, each counted where it begins."""
    for pair in pairs:
        gauge.enter(STAGES[0].name)
        yield pair


def _attempted(
    stage: Stage, call: Call, rows: Iterable[Row], failed: set[str], gauge: Gauge, after: str | None
) -> Iterator[Row]:
    """Rows through a stage. An error about a clip becomes its row, and the rest of that clip is left out.

    A row has left the stage for the one ``after`` it with the first thing that is made of it.
    """
    for row in rows:
        here = True
        if row.error_code or row.clip_id not in failed:
            for made in attempt(call, row, stage.gives):
                if made.error_code:
                    failed.add(row.clip_id)
                if here:
                    gauge.leave(stage.name)
                here = False
                gauge.enter(after)
                yield made
        if here:
            gauge.leave(stage.name)


def listener(job: Job, left: int) -> Callable[[Part | ClipRecord], None]:
    """Metrics are Ray's; without it there are none."""
    return lambda result: None


def logs_folder() -> str:
    """A process has no logs of workers."""
    return ""
