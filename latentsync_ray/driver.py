"""Run a job: what is left to do, shard by shard, through a runner, into the records; with a budget for failures.

Knows neither Ray nor models: ``local`` and ``pipeline`` are the two runners, chosen by ``job.cluster.runner``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from latentsync_ray.arguments import kind_of
from latentsync_ray.config import Job
from latentsync_ray.errors import ClipError, ConfigError, InternalError, NotBegun, WorkerDied
from latentsync_ray.filesystems import configured
from latentsync_ray.lease import Lease
from latentsync_ray.manifest import extra_columns, read_manifest, to_pair
from latentsync_ray.models.find import find_model
from latentsync_ray.preflight import check_inputs, check_recipe, check_room, resolved
from latentsync_ray.progress import Progress, Silent, noting
from latentsync_ray.records import Records
from latentsync_ray.speed import Work
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.stages.parts import sweep
from latentsync_ray.stages.table import TIMED
from latentsync_ray.types import ClipRecord, Pair, Part

__all__ = ["Summary", "dub", "run"]

log = logging.getLogger(__name__)


class _Runner(Protocol):
    """What ``local`` and ``pipeline`` have in common."""

    def prepare(self, job: Job) -> Job:
        """Be ready for passes: the job, with what the machines decide for all of them.

        Raises ConfigError when they cannot do it.
        """
        ...

    def one_pass(
        self,
        pairs: list[Pair],
        job: Job,
        *,
        first: bool,
        on_phase: Callable[[str], None] | None,
        deadline: float | None,
    ) -> Iterator[Part | ClipRecord]:
        """Parts and records as they are made; clips that get no record are tried in another pass.

        After ``deadline`` (seconds since 1970) no clip begins; those left fail with NotBegun.
        """
        ...

    def logs_folder(self) -> str:
        """Where to read why a worker died, in brackets; empty when nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended."""

    output: str
    total: int
    """Clips in the manifest."""
    done_before: int
    """Clips that earlier runs have dubbed."""
    failed_before: int
    """Clips that failed in earlier runs and were not tried again."""
    ok: int
    """Clips dubbed by this run."""
    failed: int
    """Clips that failed in this run."""
    bugs: int
    """Those of them that met a bug (``internal_error``)."""
    left: int
    """Clips that were not begun, because of the job's ``limit`` or ``time_limit``."""
    frames: int
    seconds: float
    speed: str
    """How busy the model's device was, and how near to its peak, in a line; empty when no model worked."""
    exit_code: int
    """0; 1 when more of the manifest's clips have failed, in this run or before, than the job's budget allows, or when one met
    a bug; 3 when all that is missing are clips that the time limit left."""


def run(job: Job, *, progress: Progress | None = None) -> Summary:
    """Dub every pair of the manifest that has no record yet, and record it.

    Killed at any moment and run again, it goes on where it was: finished clips are not redone, finished parts of the clip in
    work are reused, and the table holds one row per clip. Raises ConfigError or ModelError for what makes the whole job
    impossible, also when another run is at work in the output.
    """
    began, progress = time.perf_counter(), Silent() if progress is None else progress
    kind_of(job, Job, "job", "a Job, e.g. load_job('job.yaml')")
    deadline = job.time_limit and time.time() + job.time_limit
    with ExitStack() as stack:
        stack.callback(progress.stop)
        stack.enter_context(noting(progress))
        stack.enter_context(configured(job.storage_options))
        try:
            progress.phase("reading the manifest")
            table = read_manifest(job.manifest)
            if len(table) == 0:
                raise ConfigError(f"{job.manifest} has no rows")
            progress.phase("reading the records of earlier runs")
            lease = stack.enter_context(Lease(job.output, note=progress.note))
            job = job.model_copy(update={"recipe": resolved(job.recipe, note=progress.note)})
            records = Records(
                job.output,
                extra=extra_columns(table),
                recipe=job.recipe.fingerprint(),
                mixed_recipes=job.mixed_recipes,
                confirm=lease.confirm,
                note=progress.note,
            )
            todo = records.left(table["clip_id"], retry_failed=job.retry_failed)
            todo, beyond = todo[: job.limit], todo[job.limit :] if job.limit else todo[:0]
            if len(todo):
                alone = job.cluster.address is None
                progress.phase("checking the inputs")
                check_inputs(table, records.codes, tolerated=job.failure_budget, local=alone, note=progress.note)
                progress.phase("checking the model")
                check_recipe(job.recipe, note=progress.note, fetch=alone)
                check_room(job)
                records.reopen(table["clip_id"].take(todo))
        except ClipError as error:
            raise ConfigError(f"manifest or output cannot be used: {error}") from error
        summary = _run(job, table, todo, records, lease, progress, began, deadline)
        return replace(summary, left=summary.left + len(beyond))


def _run(
    job: Job,
    table: pa.Table,
    todo: np.ndarray,
    records: Records,
    lease: Lease,
    progress: Progress,
    began: float,
    deadline: float | None,
) -> Summary:
    note = find_model(job.recipe.model).note
    failed_before = records.failed(table["clip_id"])
    progress.start(len(table), len(table) - len(todo))
    if len(todo) and note:
        progress.note(note)
    if len(todo) and job.recipe.compile:
        progress.note("the model is compiled when a worker starts: that takes minutes, or seconds where it was done before")
    if len(todo) and job.cluster.runner == "ray":
        progress.phase("starting Ray")
    runner = _Prepared(job, deadline)
    ok = failed = bugs = frames = late = 0
    work = Work(TIMED)
    with records:
        for first in range(0, len(todo), job.cluster.shard_clips):
            rows = [to_pair(table, int(index)) for index in todo[first : first + job.cluster.shard_clips]]
            for result in _dub(rows, job, runner, progress):
                lease.check()
                if isinstance(result, Part):
                    progress.phase("dubbing")
                    progress.frames(result.stop - result.start)
                    continue
                if result.error_code == NotBegun.code:
                    late += 1
                    continue
                records.add(result)
                work.add(result)
                progress.clip(result)
                ok, failed, frames = ok + result.ok, failed + result.failed, frames + (result.frames or 0)
                bugs += result.error_code == InternalError.code
        progress.phase("writing the table")
    records.compact()
    lease.confirm()
    sweep(job.output, keep=records.kept_for_another_run())
    return Summary(
        output=job.output,
        total=len(table),
        done_before=len(table) - len(todo) - failed_before,
        failed_before=failed_before,
        ok=ok,
        failed=failed,
        bugs=bugs,
        left=late,
        frames=frames,
        seconds=time.perf_counter() - began,
        speed=work.line(job.cluster.peak_tflops),
        exit_code=1 if bugs or records.failed(table["clip_id"]) > job.failure_budget * len(table) else 3 if late else 0,
    )


def _dub(rows: list[Pair], job: Job, runner: _Prepared, progress: Progress) -> Iterator[Part | ClipRecord]:
    """Rows that the manifest reader refused become records at once; the others are dubbed."""
    yield from (failed_record(row, job.recipe) for row in rows if row.error_code)
    yield from _passes([row for row in rows if not row.error_code], runner, on_phase=progress.phase)


def dub(pairs: Iterable[Pair], job: Job, *, on_phase: Callable[[str], None] | None = None) -> Iterator[Part | ClipRecord]:
    """Dub pairs with the job's runner: every part as it is encoded, and one record of each clip, in no particular order.

    Clips whose worker died are tried in as many passes as the job allows. Raises ConfigError or ModelError for what makes the
    whole job impossible.
    """
    with configured(job.storage_options):
        job = job.model_copy(update={"recipe": resolved(job.recipe)})
        yield from _passes(pairs, _Prepared(job), on_phase=on_phase)


class _Prepared:
    """A job's runner, which prepares the job when there is something to do: once, for all passes."""

    def __init__(self, job: Job, deadline: float | None = None) -> None:
        self.runner, self.deadline, self._asked, self._job = _runner(job), deadline, job, None

    @property
    def job(self) -> Job:
        """The job as prepared."""
        if self._job is None:
            self._job = self.runner.prepare(self._asked)
        return self._job


def _passes(
    pairs: Iterable[Pair], prepared: _Prepared, *, on_phase: Callable[[str], None] | None
) -> Iterator[Part | ClipRecord]:
    left = {pair.clip_id: pair for pair in pairs}
    if not left:
        return
    job, runner = prepared.job, prepared.runner
    for number in range(job.cluster.passes):
        if not left:
            return
        if number:
            log.warning("pass %d: %d clips whose workers died are tried again", number + 1, len(left))
        todo = list(left.values())
        for result in runner.one_pass(todo, job, first=number == 0, on_phase=on_phase, deadline=prepared.deadline):
            if isinstance(result, ClipRecord):
                left.pop(result.clip_id, None)
            yield result
    for pair in left.values():
        died = WorkerDied(
            f"it was not finished in {job.cluster.passes} passes: the process working on it died each time (out of memory?), "
            f"or nothing moved for {job.cluster.no_progress_seconds:.0f} s; Ray's logs{runner.logs_folder()} say which"
        )
        yield failed_record(pair, job.recipe, died)


def _runner(job: Job) -> _Runner:
    if job.cluster.runner == "local":
        from latentsync_ray import local as runner
    else:
        from latentsync_ray import pipeline as runner
    return runner
