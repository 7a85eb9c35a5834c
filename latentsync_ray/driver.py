"""Run a job: what is left to do, through a runner, into the records; with a budget for failures.

Knows neither Ray nor models: ``local`` and ``pipeline`` are the two runners, chosen by ``job.cluster.runner``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from latentsync_ray.arguments import kind_of
from latentsync_ray.config import Job
from latentsync_ray.consent import consented
from latentsync_ray.errors import ClipError, ConfigError, InternalError, NotBegun, TryAgain
from latentsync_ray.filesystems import configured
from latentsync_ray.lease import Lease
from latentsync_ray.manifest import extra_columns, read_manifest
from latentsync_ray.marks import Marks, marked
from latentsync_ray.models.find import find_model
from latentsync_ray.pairs import Pairs
from latentsync_ray.passes import Prepared, dub, passes
from latentsync_ray.preflight import check_inputs, check_recipe, check_room, resolved
from latentsync_ray.progress import Progress, Silent, noting
from latentsync_ray.records import Records, among
from latentsync_ray.speed import Work
from latentsync_ray.stages.mark import check_signing
from latentsync_ray.stages.parts import sweep
from latentsync_ray.stages.table import TIMED
from latentsync_ray.todo import Todo, check_places, check_prune, find_todo, finish_prune, prune, reopen, rows_of
from latentsync_ray.types import ClipRecord, Part

__all__ = ["Summary", "dub", "run"]

log = logging.getLogger(__name__)

_SHARE_FROM = 100
"""Clips from which on the share of failed ones says something."""


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
    below_quality: int
    """Those of them that were published although no attempt keeps the limits of the job's ``quality``."""
    failed: int
    """Clips that failed in this run."""
    bugs: int
    """Those of them that met a bug (``internal_error``)."""
    left: int
    """Clips that were not made, because of the job's ``limit``, ``time_limit``, ``stop_at_failed`` or ``budget``."""
    changed: int
    """Clips that earlier runs made of other inputs or settings, to be made again."""
    kept: int
    """Clips that failed when they were made again: their earlier version and its row stay, and ``failed`` counts them."""
    removed: int
    """Clips that the job pruned, as the manifest does not have them."""
    not_in_manifest: int
    """Such clips that stay in the table."""
    dropped: int
    """Clips that are marked ``drop``: not made, and removed if they had been."""
    stopped: str
    """Why the run ended early: ``stop_at_failed``, ``budget``, ``time_limit``, or empty."""
    frames: int
    """Frames of the segments that this run made, not of those that it found."""
    seconds: float
    speed: str
    """How busy the model's device was, and how near to its peak, in a line; empty when no model worked."""
    exit_code: int
    """0; 1 when more of the manifest's clips have failed, in this run or before, than the job's ``failure_budget`` allows, when
    ``stop_at_failed`` ended the run, or when a clip met a bug; 3 when all that is missing are clips that the time limit or the
    budget left."""


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
            table, marks = marked(read_manifest(job.manifest, job.clip_name), job.marks)
            progress.phase("reading the records of earlier runs")
            lease = stack.enter_context(Lease(job.output, note=progress.note))
            job = job.model_copy(update={"recipe": resolved(job.recipe, note=progress.note)})
            records = Records(
                job.output,
                extra=extra_columns(table),
                partition_by=job.partition_by,
                recipe=job.recipe.fingerprint(),
                mixed_recipes=job.mixed_recipes,
                confirm=lease.confirm,
                note=progress.note,
            )
            finish_prune(job.output, lease.confirm)
            todo = find_todo(job, table, records, progress.phase, marks)
            remove = todo.to_remove(prune=job.prune)
            if job.prune:
                check_prune(job.output, records, todo.removed)
            check_places(job.output, table, todo.rows, remove)
            _tell(todo, job, table, marks, progress)
            if len(todo.rows):
                alone = job.cluster.address is None or job.cluster.runner == "local"
                progress.phase("checking the inputs")
                asked = {"tolerated": job.failure_budget, "consent": job.require.consent, "dropped": todo.dropped}
                check_inputs(table, records.codes, **asked, local=alone, note=progress.note)
                progress.phase("checking the model")
                check_recipe(job.recipe, note=progress.note, fetch=alone)
                check_room(job)
                if job.signing and alone:
                    check_signing(job.signing)
            if len(remove):
                progress.phase("removing clips that are marked, or left the manifest")
                lease.confirm()
                prune(job.output, records, remove)
            reopen(table, todo, records)
        except ClipError as error:
            raise ConfigError(f"manifest or output cannot be used: {error}") from error
        return _run(job, table, todo, records, lease, progress, began, deadline)


def _tell(todo: Todo, job: Job, table: pa.Table, marks: Marks, progress: Progress) -> None:
    if job.marks:
        told = f"{len(marks.redo)} redo, {len(marks.keep)} keep, {len(marks.drop)} drop"
        progress.note(f"marks: {told}; {len(todo.gone)} clip{'s' * (len(todo.gone) != 1)} to be removed")
    if count := len(todo.changed):
        progress.note(f"inputs or settings of {count} clip{'s' * (count > 1)} have changed: made again")
    if count := len(todo.missing):
        progress.note(f"{count} finished clip{'s' * (count > 1)} without a file: made again")
    if count := len(todo.removed):
        what = "removed" if job.prune else "kept (prune=true removes them)"
        progress.note(f"{count} finished or failed clip{'s' * (count > 1)} not in the manifest any more: {what}")
    if job.require.consent and (count := len(table) - len(np.union1d(todo.unsettled, np.flatnonzero(consented(table))))):
        progress.note(
            f"{count} clip{'s' * (count > 1)} made before without consent: kept; to withdraw one, remove its row and prune"
        )


def _run(
    job: Job,
    table: pa.Table,
    todo: Todo,
    records: Records,
    lease: Lease,
    progress: Progress,
    began: float,
    deadline: float | None,
) -> Summary:
    note = find_model(job.recipe.model).note
    others, count = todo.others(table["clip_id"]), len(todo.rows)
    failed_before = records.failed(others)
    progress.start(len(others) + count, len(others))
    if count and note:
        progress.note(note)
    if count and job.recipe.compile:
        progress.note("the model is compiled when a worker starts: that takes minutes, or seconds where it was done before")
    if count and job.cluster.runner == "ray":
        progress.phase("starting Ray")
    made, runner = _Made(count), Prepared(job, deadline)
    tell = runner.runner.listener(job, count)
    with records, closing(_results(job, table, todo.rows, runner, progress)) as results:
        for result in results:
            lease.check()
            tell(result)
            if isinstance(result, Part):
                progress.phase("dubbing")
                if not result.found:
                    progress.frames(result.stop - result.start)
                told = result.index + 1, result.segment_count, result.clip_id, result.generate_seconds
                log.debug("segment %d of %d of clip %s: %.1f s on the device", *told)
                if made.spent_on(result, runner.job):
                    progress.note(f"stopping early: {made.spending()}")
                    break
                continue
            if result.error_code == NotBegun.code:
                made.stopped = "time_limit"
                continue
            if result.error_code == TryAgain.code:
                if made.again(result, runner.job):
                    progress.note(f"stopping early: {made.spending()}")
                    break
                continue
            records.add(result)
            log.debug("clip %s: %s", result.clip_id, result.output_path or result.error_code or result.status)
            progress.clip(result)
            made.add(result)
            if made.too_many_failed(job.stop_at_failed or math.inf):
                progress.note(f"stopping early: {made.failed} of {made.ok + made.failed} clips failed (stop_at_failed)")
                break
        progress.phase("writing the table")
    if made.stopped:  # joins that were under way then may have ended well
        dubbed = pa.chunked_array([records.absorb()], pa.string())
        made.ok += among(dubbed, rows_of(table, todo.rows, ["clip_id"])["clip_id"]).to_pylist().count(True)
    records.compact()
    lease.confirm()
    left = len(todo.over_limit) + count - made.ok - made.failed
    if deadline and time.time() >= deadline and left > len(todo.over_limit) and not made.stopped:
        made.stopped = "time_limit"
    if not left:  # else parts of clips in work are for the next run
        sweep(job.output, keep=records.kept_for_another_run())
    failed = records.failed(table["clip_id"]) + records.refused
    too_many = made.stopped == "stop_at_failed" or failed / max(len(table), 1) > job.failure_budget
    return Summary(
        output=job.output,
        total=len(table),
        done_before=len(others) - failed_before,
        failed_before=failed_before,
        ok=made.ok,
        below_quality=made.below_quality,
        failed=made.failed,
        bugs=made.bugs,
        left=left,
        changed=len(todo.changed),
        kept=records.refused,
        removed=len(todo.removed) if job.prune else 0,
        not_in_manifest=0 if job.prune else len(todo.removed),
        dropped=len(todo.dropped),
        stopped=made.stopped,
        frames=made.frames,
        seconds=time.perf_counter() - began,
        speed=made.work.line(job.cluster.peak_tflops),
        exit_code=1 if made.bugs or too_many else 3 if made.stopped else 0,
    )


class _Made:
    """What a run has made so far."""

    def __init__(self, count: int) -> None:
        """``count`` are the clips to be made."""
        self._count = count
        self._arrived: dict[str, set[int]] = {}
        """Clip without a record -> its segments that are there."""
        self._whole: set[str] = set()
        """Those of these clips of which all are."""
        self.ok = self.below_quality = self.failed = self.bugs = self.frames = 0
        self.stopped = ""
        self.work = Work(TIMED)
        self._seconds = self._most = 0.0
        """Of devices: in all, and for the part that took most."""

    def add(self, record: ClipRecord) -> None:
        self.ok, self.failed = self.ok + record.ok, self.failed + record.failed
        self.below_quality += record.status == "ok_below_quality"
        self.bugs += record.error_code == InternalError.code
        self._forget(record)
        self.work.add(record)

    def again(self, record: ClipRecord, job: Job) -> bool:
        """Note that a clip is made again. Whether that could exceed the budget."""
        self._forget(record)
        return self._over(job)

    def _forget(self, record: ClipRecord) -> None:
        self._arrived.pop(record.clip_id, None)
        self._whole.discard(record.clip_id)

    def too_many_failed(self, most: float) -> bool:
        """Whether the job wants to stop now; see ``Job.stop_at_failed``."""
        count = self.ok + self.failed
        if self.failed >= most if most >= 1 else count >= _SHARE_FROM and self.failed / count > most:
            self.stopped = "stop_at_failed"
        return self.stopped == "stop_at_failed"

    def spent_on(self, part: Part, job: Job) -> bool:
        """Count a part, unless it was found. Whether more are to be made, and one of each worker could exceed the budget."""
        there = self._arrived.setdefault(part.clip_id, set())
        there.add(part.index)
        if len(there) == part.segment_count:
            self._whole.add(part.clip_id)
        if part.found:
            return False
        self.frames += part.stop - part.start
        seconds = part.generate_seconds + part.idle_seconds
        self._seconds, self._most = self._seconds + seconds, max(self._most, seconds)
        return self._over(job)

    def _over(self, job: Job) -> bool:
        workers = job.cluster.generate_workers[1] if job.cluster.generate_workers else 1
        more = self.ok + self.failed + len(self._whole) < self._count
        if more and job.budget.hours and self._seconds + workers * self._most > job.budget.hours * 3600:
            self.stopped = "budget"
        return self.stopped == "budget"

    def spending(self) -> str:
        """What the budget went for, in words."""
        spent = (
            f"devices took {self._seconds:.1f} s, and the next segment, of up to {self._most:.1f} s, could exceed the budget"
        )
        if self._seconds > self._most:
            return spent
        return f"{spent}. Each run keeps what is finished and makes at least one segment more; raise the budget to go faster"


def _results(job: Job, table: pa.Table, rows: np.ndarray, runner: Prepared, progress: Progress) -> Generator[Part | ClipRecord]:
    """Of the runner, for these rows of the manifest."""
    pairs = Pairs.of_manifest(table, rows, consent=job.require.consent)
    yield from passes(pairs, runner, on_phase=progress.phase, watch=progress.under_way)
