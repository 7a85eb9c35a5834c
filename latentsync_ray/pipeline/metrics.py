"""What a run tells Prometheus, through Ray: finished clips and frames, seconds of work, and what waits before which stage.

The driver tells it all, of what it sees anyway. Ray exports the names with ``ray_`` before them, and counters with ``_total``
behind; every node has an address for Prometheus. Knows nothing of who reads them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import ray
from ray.util.metrics import Counter, Gauge

from latentsync_ray import redact
from latentsync_ray.config import Job
from latentsync_ray.errors import NotBegun, TryAgain
from latentsync_ray.stages.table import TIMED, tasks
from latentsync_ray.types import ClipRecord, Part

__all__ = ["JobMetrics", "QueueGauge"]

_EVERY = 2.0
"""Seconds between two numbers of a gauge; Ray sends metrics on every ten."""


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
            if not result.found:
                self._add(self._frames, result.stop - result.start)
                self._add(self._device, result.generate_seconds, state="busy")
                self._add(self._device, result.idle_seconds, state="idle")
        elif result.error_code not in (NotBegun.code, TryAgain.code):
            self._unfinished -= 1
            self._add(self._clips, 1, status=result.status, code=result.error_code or "")
            for stage in TIMED:
                self._add(self._stages, getattr(result, f"{stage}_seconds") or 0, stage=stage)
        self._left.set(self._unfinished, tags={"output": self._output})

    def _add(self, counter: Counter, value: float, **tags: str) -> None:
        if value > 0:  # Ray refuses to add nothing
            counter.inc(value, tags={"output": self._output, **tags})


class QueueGauge:
    """Tells how many segments wait for each stage and are in it: called with stage -> (waiting, working)."""

    def __init__(self, output: str) -> None:
        self._output = redact.shown(output)
        self._stages = [group[-1].name for group in tasks() if not group[-1].fans_out]  # rows of the first are clips
        self._gauge = Gauge(
            "latentsync_job_segments", "Segments that wait for a stage or are in it.", tag_keys=("output", "stage", "state")
        )
        self._told = 0.0

    def __call__(self, counts: Mapping[str, tuple[int, int]]) -> None:
        if counts and time.monotonic() - self._told < _EVERY:
            return
        self._told = time.monotonic()
        for stage in self._stages:
            for state, count in zip(("waiting", "working"), counts.get(stage, (0, 0)), strict=True):
                self._gauge.set(count, tags={"output": self._output, "stage": stage, "state": state})
