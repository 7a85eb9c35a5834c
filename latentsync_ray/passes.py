"""A job's clips through its runner, in as many passes as it takes: clips whose worker died are tried again.

Knows the two runners, ``local`` and ``pipeline``, and neither Ray nor models.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from latentsync_ray.config import Job
from latentsync_ray.errors import TryAgain, WorkerDied
from latentsync_ray.filesystems import configured
from latentsync_ray.pairs import Open, Pairs, PassBroken
from latentsync_ray.preflight import resolved
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord, Pair, Part

__all__ = ["Prepared", "dub", "passes"]

log = logging.getLogger(__name__)

_ALONE = 32
"""At most this many clips are each given a last pass alone: one that kills its workers takes no other along."""


class _Runner(Protocol):
    """What ``local`` and ``pipeline`` have in common."""

    def prepare(self, job: Job) -> Job:
        """Be ready for passes: the job, with what the machines decide for all of them.

        Raises ConfigError when they cannot do it.
        """
        ...

    def one_pass(
        self,
        pairs: Pairs,
        job: Job,
        *,
        first: bool,
        on_phase: Callable[[str], None] | None,
        watch: Callable[[Callable[[], UnderWay]], None] | None,
        deadline: float | None,
    ) -> Iterator[Part | ClipRecord]:
        """Parts and records as they are made; clips that get no record are tried in another pass.

        ``watch`` is told where to ask what is in work. After ``deadline`` (seconds since 1970) no clip begins: such get no
        record, or one with NotBegun. Raises PassBroken when it could not go on.
        """
        ...

    def listener(self, job: Job, left: int) -> Callable[[Part | ClipRecord], None]:
        """What to tell of each result of a run with ``left`` clips to do: metrics."""
        ...

    def logs_folder(self) -> str:
        """Where to read why a worker died, in brackets; empty when nobody knows."""
        ...


def dub(pairs: Iterable[Pair], job: Job, *, on_phase: Callable[[str], None] | None = None) -> Iterator[Part | ClipRecord]:
    """Dub pairs with the job's runner: every part as it is encoded, and one record of each clip, in no particular order.

    Clips whose worker died are tried in as many passes as the job allows. Raises ConfigError or ModelError for what makes the
    whole job impossible.
    """
    with configured(job.storage_options):
        job = job.model_copy(update={"recipe": resolved(job.recipe)})
        for result in passes(Pairs.of(pairs), Prepared(job), on_phase=on_phase, watch=None):
            if not (isinstance(result, ClipRecord) and result.error_code == TryAgain.code):
                yield result


class Prepared:
    """A job's runner, which prepares the job when there is something to do: once, for all passes."""

    def __init__(self, job: Job, deadline: float | None = None) -> None:
        self.runner, self.deadline, self._asked, self._job = _runner(job), deadline, job, None

    @property
    def late(self) -> bool:
        """Whether the time of the run is up."""
        return self.deadline is not None and time.time() >= self.deadline

    @property
    def job(self) -> Job:
        """The job as prepared."""
        if self._job is None:
            self._job = self.runner.prepare(self._asked)
        return self._job


def passes(
    pairs: Pairs,
    prepared: Prepared,
    *,
    on_phase: Callable[[str], None] | None,
    watch: Callable[[Callable[[], UnderWay]], None] | None,
) -> Iterator[Part | ClipRecord]:
    """Dub ``pairs`` with a prepared job: as ``dub``, but clips that its deadline leaves get no record.

    Clips that are made again for their quality give a record with TryAgain each time. A pass with such is not counted, nor one
    that breaks off but finished some clips.
    """
    if not len(pairs):
        return
    job, runner, left, number, tried = prepared.job, prepared.runner, Open(pairs), 0, 0
    while len(left) and number < job.cluster.passes:
        if tried:
            log.warning("%d clip%s below the job's quality: made again", tried, "s" * (tried > 1))
        elif number:
            log.warning("pass %d: %d clips whose workers died are tried again", number + 1, len(left))
        before, todo = len(left), pairs.only(left)
        alone = 0 < number == job.cluster.passes - 1 and before <= _ALONE
        broken, tried, told = False, 0, {"on_phase": on_phase, "watch": watch, "deadline": prepared.deadline}
        for group in [Pairs.of([pair]) for pair in todo] if alone else [todo]:
            if alone and prepared.late:
                return
            try:
                for result in runner.one_pass(group, job, first=number == 0 and before == len(pairs), **told):
                    if isinstance(result, ClipRecord):
                        if result.error_code == TryAgain.code:
                            tried += 1
                        else:
                            left.settle(result.clip_id)
                    yield result
            except PassBroken:
                broken = True
        number += not (tried or (broken and len(left) < before))
        if prepared.late:
            return
    for pair in pairs.only(left):
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
