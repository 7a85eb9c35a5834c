"""The six stages on Ray Data, top to bottom.

    pairs -plan, track-> segments -crop-> crops -generate-> faces -paste-> parts -join-> records

Parts stream back to the driver, which counts them per clip and starts a clip's join the moment its last part is there: no
barrier, and a slow clip holds nobody up. Whatever goes wrong travels as a row: an error about a clip becomes its record, a
wrong setting stops the job at once. A worker that dies costs the clips it was working on one more pass, in which finished parts
are found in storage and not made again.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset, TaskPoolStrategy
from ray.data.block import BlockAccessor
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from latentsync_ray import errors, redact
from latentsync_ray.config import Job, Recipe
from latentsync_ray.errors import ConfigError
from latentsync_ray.models.find import find_model
from latentsync_ray.models.fitting import windows_together
from latentsync_ray.pairs import Open, Pairs, PassBroken
from latentsync_ray.pipeline.blocks import parts_dataset, retries_set
from latentsync_ray.pipeline.cluster import (
    check_nodes,
    check_signing_there,
    connect,
    logs_folder,
    never_began,
    nodes,
    without_worker_messages,
)
from latentsync_ray.pipeline.device import ask_device
from latentsync_ray.pipeline.joins import Arrivals, Gathering, Joins, join_parts
from latentsync_ray.pipeline.look import probe_all, shortage
from latentsync_ray.pipeline.metrics import JobMetrics, QueueGauge
from latentsync_ray.pipeline.shares import kind_of_gpu, shares
from latentsync_ray.pipeline.watch import Operators, watched
from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.stages.join import Join, steps
from latentsync_ray.stages.rows import raise_settings
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord, Part

__all__ = [
    "Gathering",
    "check_nodes",
    "check_signing_there",
    "connect",
    "join_parts",
    "listener",
    "logs_folder",
    "one_pass",
    "parts_dataset",
    "prepare",
    "probe_all",
    "retries_set",
    "shortage",
    "told",
]

log = logging.getLogger(__name__)

_LANGUAGES_APART = 8
"""Rows in a group for each CPU. Two of one video are as far apart as the group has videos: by the second, the face tracks are
there as a rule, and the file still is."""


def prepare(job: Job) -> Job:
    """Join the cluster: the job, with the kind of GPU that models run on in all its passes, its memory, and model workers.

    Raises ConfigError when the cluster does not answer, or its nodes cannot do the job, and ModelError when a GPU cannot.
    """
    connect(job.cluster)
    if job.cluster.address:
        check_nodes(job)
        check_signing_there(job)
    kind = job.cluster.accelerator or kind_of_gpu(job.cluster, nodes())
    cluster = job.cluster.model_copy(update={"accelerator": kind})
    if device := ask_device(cluster, nodes()):
        memory = cluster.device_memory_gb or device.gigabytes
        windows_together(find_model(job.recipe.model), job.recipe, device.kind, memory and memory * 1e9)
        cluster = cluster.model_copy(update={"device_memory_gb": memory})
    workers = cluster.generate_workers or shares(cluster, nodes()).workers
    cluster = cluster.model_copy(update={"generate_workers": workers})
    return job.model_copy(update={"cluster": cluster})


def listener(job: Job, left: int) -> Callable[[Part | ClipRecord], None]:
    """What to tell of each result of a run with ``left`` clips to do: Prometheus reads it from Ray."""
    return JobMetrics(job, left).tell


def one_pass(
    pairs: Pairs,
    job: Job,
    *,
    first: bool = True,
    on_phase: Callable[[str], None] | None = None,
    watch: Callable[[Callable[[], UnderWay]], None] | None = None,
    deadline: float | None = None,
) -> Iterator[Part | ClipRecord]:
    """Dub pairs on Ray: every part as it is encoded, and each clip's record when it is finished, in no particular order.

    Clips without a record at the end are left for the next. Raises PassBroken when it could not go on, ConfigError or
    ModelError when a worker meets one, and ConfigError when the ``first`` pass waited in vain: clips that nobody touched are
    not to blame. ``on_phase`` is told what is under way, ``watch`` where to ask what each stage has in work. After ``deadline``
    (seconds since 1970) no clip begins; those left get no record, or one with NotBegun.
    """
    connect(job.cluster)
    if on_phase:
        on_phase("waiting for the first frames" if first else "another pass: waiting for frames")
    join = Join(job.recipe, job.output, lookup(SINKS, job.sink, "sink")(job.output), steps=steps(job.signing, job.quality))
    with (
        without_worker_messages(),
        watched(QueueGauge(job.output)) as operators,
        closing(Joins(join, job.storage_options)) as joins,
    ):
        yield from _one_pass(pairs, job, operators, joins, first=first, watch=watch, deadline=deadline)


def _one_pass(
    pairs: Pairs,
    job: Job,
    operators: Operators,
    joins: Joins,
    *,
    first: bool,
    watch: Callable[[Callable[[], UnderWay]], None] | None,
    deadline: float | None,
) -> Iterator[Part | ClipRecord]:
    options = job.storage_options
    arrived, broken = Arrivals(), None
    left = Open(pairs)
    width = _LANGUAGES_APART * max(1, int(sum(node.get("CPU", 0) for node in nodes())))
    todo = ray.data.from_arrow([_spread(block, width) for block in pairs.blocks()])
    todo = todo.flat_map(_begin, fn_kwargs={"deadline": deadline}, num_cpus=0, compute=TaskPoolStrategy(size=1))
    todo.context.max_errored_blocks = -1  # a block whose worker died drops out; the next pass makes it again
    dataset = parts_dataset(
        todo,
        job.output,
        job.recipe,
        job.cluster,
        keep_faces=job.keep_faces,
        deadline=deadline,
        quality=job.quality,
        storage_options=options,
        tiny=True,
    )
    operators.listen(dataset)
    if watch:
        watch(lambda: UnderWay.of({**operators.counts, "join": joins.running}))
    try:
        for row in _rows(dataset):
            part = Part.from_row(row)
            if part.clip_id not in left:
                continue
            if part.error_code:
                left.settle(part.clip_id)
                arrived.forget(part.clip_id)
                yield told(part, job.recipe)
                continue
            if arrived.is_new(part):
                yield part
            if parts := arrived.complete_with(part):
                left.settle(part.clip_id)
                yield from (told(result, job.recipe) for result in joins.start(parts))
            yield from (told(result, job.recipe) for result in joins.finished())
    except (RayError, ExecutionTimeoutError) as error:
        if getattr(error, "actor_init_failed", False):
            raise _own_error(error) from error
        if first and isinstance(error, ExecutionTimeoutError) and len(left) == len(pairs) and not arrived:
            raise ConfigError(never_began(len(pairs), job.cluster)) from error
        told_by_ray = str(error).strip().splitlines() or [type(error).__name__]
        log.warning("the pass broke off: %s", redact.text(told_by_ray[-1]))
        broken = PassBroken(str(error))
    finally:
        del dataset, todo
        gc.collect()  # a broken dataset holds on to its actors, and with them the GPUs, until it is collected
    yield from (told(result, job.recipe) for result in joins.drain())
    if broken:
        raise broken


def _rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """As ``iter_rows``, which keeps each block back until the next is there."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from BlockAccessor.for_block(batch).iter_rows(public_row_format=True)


def _begin(row: dict[str, Any], deadline: float | None = None) -> list[dict[str, Any]]:
    """A row of ``Pairs`` as one of a pair, unless the time is up."""
    return [] if deadline and time.time() >= deadline else [Pairs.pair(row).to_row()]


def _spread(block: pa.Table, width: int) -> pa.Table:
    """Of every ``width`` rows, first one of each video, then the second ones and so on."""
    seen: Counter[tuple[int, str]] = Counter()
    order = []
    for place, video in enumerate(block["video"].to_pylist()):
        group = place // width
        order.append((group, seen[group, video], place))
        seen[group, video] += 1
    return block.take([place for *_, place in sorted(order)])


def told(result: Part | ClipRecord, recipe: Recipe) -> ClipRecord:
    """A clip's record, failed or not. Raises what makes the whole job impossible."""
    if isinstance(result, ClipRecord):
        return result
    raise_settings(result)
    return failed_record(result, recipe)


def _own_error(error: Exception) -> Exception:
    """Our error behind a model worker that could not start (weights missing, wrong checkpoint): Ray hands it over as text."""
    name, _, text = str(error).rpartition("latentsync_ray.errors.")[2].partition(": ")
    kind = getattr(errors, name, None)
    return kind(text) if isinstance(kind, type) and issubclass(kind, errors.LatentSyncError) else error
