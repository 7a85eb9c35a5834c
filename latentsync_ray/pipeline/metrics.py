"""What a run tells Prometheus, through Ray: finished clips and frames, seconds of work, and what waits before which stage.

The driver tells it all, of what it sees anyway. Ray exports the names with ``ray_`` before them, and counters with ``_total``
behind; every node has an address for Prometheus. Knows nothing of who reads them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.metrics import Counter, Gauge

from latentsync_ray import redact
from latentsync_ray.config import Job
from latentsync_ray.errors import NotBegun
from latentsync_ray.stages.table import TIMED, tasks
from latentsync_ray.types import ClipRecord, Part

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

__all__ = ["JobMetrics", "queue_gauge"]

_LOOK = 2.0
"""Seconds between two looks at the queues; Ray sends metrics on every ten."""


class JobMetrics:
    """The numbers of one run of ``job``, which has ``left`` clips to do."""

    def __init__(self, job: Job, left: int) -> None:
        self._output, self._unfinished = redact.shown(job.output), left
        self._early: list[ClipRecord] = []
        self._clips = Counter(
            "latentsync_job_clips", "Finished clips by status and error code.", tag_keys=("output", "status", "code")
        )
        self._left = Gauge("latentsync_job_clips_left", "Clips of this run that are not finished.", tag_keys=("output",))
        self._frames = Counter("latentsync_job_frames", "Frames of finished segments.", tag_keys=("output",))
        self._device = Counter(
            "latentsync_job_device_seconds",
            "Seconds that devices of model workers were busy or idle.",
            tag_keys=("output", "state"),
        )
        self._stages = Counter("latentsync_job_stage_seconds", "Work of finished clips by stage.", tag_keys=("output", "stage"))

    def tell(self, result: Part | ClipRecord) -> None:
        """Count a part or a record; what comes before Ray has started is counted then."""
        if not ray.is_initialized():
            self._early += [result] if isinstance(result, ClipRecord) else []
            return
        early, self._early = self._early, []
        for each in (*early, result):
            self._count(each)

    def _count(self, result: Part | ClipRecord) -> None:
        if isinstance(result, Part):
            self._add(self._frames, result.stop - result.start)
            self._add(self._device, result.generate_seconds, state="busy")
            self._add(self._device, result.idle_seconds, state="idle")
        elif result.error_code != NotBegun.code:
            self._unfinished -= 1
            self._add(self._clips, 1, status=result.status, code=result.error_code or "")
            for stage in TIMED:
                self._add(self._stages, getattr(result, f"{stage}_seconds") or 0, stage=stage)
        self._left.set(self._unfinished, tags={"output": self._output})

    def _add(self, counter: Counter, value: float, **tags: str) -> None:
        if value > 0:  # Ray refuses to add nothing
            counter.inc(value, tags={"output": self._output, **tags})


def queue_gauge(output: str) -> type[ExecutionCallback]:
    """What Ray Data has to call to tell how many segments wait for each stage, and how many are in it."""
    shown = redact.shown(output)

    class Queues(ExecutionCallback):
        def before_execution_starts(self, executor: StreamingExecutor) -> None:
            self._gauge = Gauge(
                "latentsync_job_segments", "Segments that wait for a stage or are in it.", tag_keys=("output", "stage", "state")
            )
            self._looked = 0.0

        def on_execution_step(self, executor: StreamingExecutor) -> None:
            if time.monotonic() - self._looked >= _LOOK:
                self._looked = time.monotonic()
                for stage, waiting, working in _queues(executor):
                    self._set(stage, waiting, working)

        def after_execution_succeeds(self, executor: StreamingExecutor) -> None:
            for stage, _, _ in _queues(executor):
                self._set(stage, 0, 0)

        def after_execution_fails(self, executor: StreamingExecutor, error: Exception) -> None:
            self.after_execution_succeeds(executor)

        def _set(self, stage: str, waiting: int, working: int) -> None:
            for state, count in (("waiting", waiting), ("working", working)):
                self._gauge.set(count, tags={"output": shown, "stage": stage, "state": state})

    return Queues


def _queues(executor: StreamingExecutor) -> list[tuple[str, int, int]]:
    """Stage, segments that wait for it, and tasks in it, of all stages whose rows are segments."""
    maps = [(op, state) for op, state in (executor._topology or {}).items() if op.name.startswith(("FlatMap(", "Map("))]
    groups = [group[-1] for group in tasks()]
    if len(maps) != len(groups):  # a Ray that runs several of them as one
        return []
    return [
        (stage.name, state.total_enqueued_input_blocks(), op.num_active_tasks())
        for stage, (op, state) in zip(groups, maps, strict=True)
        if not stage.fans_out  # rows of the first are clips
    ]
