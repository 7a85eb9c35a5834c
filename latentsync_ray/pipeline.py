"""The five stages on Ray Data, top to bottom.

    pairs -plan-> spans -crop-> crops -sync-> faces -paste-> parts -join-> records

Parts stream back to the driver, which counts them per clip and starts a clip's join the moment its last part is there: no
barrier, and a slow clip holds nobody up. An error in a clip's data travels as a row; a worker that dies costs the clips it
was working on one more pass, in which finished parts are found in storage and not made again.
"""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, cast

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError

from latentsync_ray import errors
from latentsync_ray.config import Cluster, Job, Recipe
from latentsync_ray.errors import ClipError, DeviceLost, WorkerDied
from latentsync_ray.model.source import find_spec
from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.join import Join, failed_record
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.sync import Sync
from latentsync_ray.types import ClipRecord, Crops, Device, Faces, Pair, Part, Row, Span

__all__ = ["connect", "dub", "lipsync_dataset", "parts_dataset"]

log = logging.getLogger(__name__)

_PENDING_JOINS = 8
"""Joins in flight; each copies one clip's MP4, so this bounds disk and network, not time."""


def parts_dataset(pairs: Dataset, output: str, recipe: Recipe, cluster: Cluster) -> Dataset:
    """Pairs in, rows of ``Part`` out, lazily; failed clips come out as one part row that carries the error."""
    gpus, (fewest, most) = _sync_pool(cluster)
    crop = partial(Crop, recipe, find_spec(recipe.model).resolution)
    # Ray Data retries a killed worker's task for ever unless told so, and has no other way to be told yet.
    retried: dict[str, Any] = {"max_retries": 3}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*deprecated")
        return (
            pairs.flat_map(_task(partial(Plan, recipe, output), Pair, Span), num_cpus=0.25, **retried)  # waits on storage
            .repartition(target_num_rows_per_block=1)  # one span a task: a block is what is retried, and what spreads out
            .flat_map(_task(crop, Span, Crops), num_cpus=cluster.crop_cpus, **retried)
            .map(
                cast("Callable[[dict[str, Any]], dict[str, Any]]", _SyncWorker),
                fn_constructor_kwargs={"recipe": recipe, "device": cluster.device},
                compute=ActorPoolStrategy(min_size=fewest, max_size=most),
                num_gpus=gpus,
                num_cpus=cluster.sync_cpus,
                max_task_retries=3,
            )
            .flat_map(_task(partial(Paste, recipe, output), Faces, Part), num_cpus=cluster.paste_cpus, **retried)
        )


def lipsync_dataset(
    pairs: Dataset, output: str, *, recipe: Recipe | None = None, cluster: Cluster | None = None, sink: str = "mp4"
) -> Dataset:
    """Lip-sync every row of ``pairs``: a Dataset of clip records, which carries the other columns of ``pairs`` along.

    ``pairs`` has the columns ``clip_id``, ``video``, ``audio`` and, if you like, ``guidance_scale``, ``seed``, ``loop_mode``.

    Lazy like any Dataset. The records are grouped by clip, which waits for the last part; use ``run`` to have clips published
    one by one, with resume and a metadata table.
    """
    recipe, cluster = recipe or Recipe(), cluster or Cluster()
    join = Join(recipe, output, lookup(SINKS, sink, "sink")(output))

    def join_group(group: Any) -> Any:
        rows = [{name: column[number] for name, column in group.items()} for number in range(len(group["clip_id"]))]
        record = _join(join, [Part.from_row(row) for row in rows])
        return {name: [value] for name, value in {**_foreign(rows[0], Part), **record.to_row()}.items()}

    parts = parts_dataset(pairs, output, recipe, cluster)
    return parts.groupby("clip_id").map_groups(join_group, batch_format="numpy", num_cpus=0.25)


def dub(pairs: Iterable[Pair], job: Job) -> Iterator[Part | ClipRecord]:
    """Dub pairs on Ray: every part as it is encoded, and each clip's record when it is finished, in no particular order."""
    left = {pair.clip_id: pair for pair in pairs}
    connect(job.cluster)
    for attempt in range(job.cluster.passes):
        if not left:
            return
        if attempt:
            log.warning("pass %d: %d clips whose workers died are tried again", attempt + 1, len(left))
        # A block whose worker died drops out and is made again in the next pass. In the last pass whatever is still wrong
        # comes to light: a bug raises, with the clip's id.
        DataContext.get_current().max_errored_blocks = -1 if attempt + 1 < job.cluster.passes else 0
        for result in _one_pass(list(left.values()), job):
            if isinstance(result, ClipRecord):
                left.pop(result.clip_id, None)
            yield result
    for pair in left.values():
        died = WorkerDied(f"the process working on it died in each of {job.cluster.passes} passes (out of memory?)")
        yield failed_record(Pair.failed(pair, died), job.recipe)


def _one_pass(pairs: list[Pair], job: Job) -> Iterator[Part | ClipRecord]:
    """One run of the dataset over ``pairs``. A pass that breaks off just ends: what it did not yield is left for the next."""
    join = ray.remote(num_cpus=0, max_retries=3)(_join)
    stage = Join(job.recipe, job.output, lookup(SINKS, job.sink, "sink")(job.output))
    arrived: dict[str, dict[int, Part]] = {}
    settled: set[str] = set()
    pending: dict[Any, Part] = {}
    rows = [pair.to_row() for pair in pairs]
    dataset = parts_dataset(
        ray.data.from_items(rows, override_num_blocks=min(len(rows), 200)), job.output, job.recipe, job.cluster
    )
    try:
        for row in dataset.iter_rows():
            part = Part.from_row(row)
            if part.clip_id in settled:
                continue
            if part.error_code:
                settled.add(part.clip_id)
                yield failed_record(part, job.recipe)
                continue
            yield part
            parts = arrived.setdefault(part.clip_id, {})
            parts[part.index] = part
            if len(parts) == part.segment_count:
                settled.add(part.clip_id)
                pending[join.remote(stage, list(arrived.pop(part.clip_id).values()))] = part
            yield from _joined(pending, at_most=_PENDING_JOINS)
    except RayTaskError:
        raise  # a bug in a stage; its traceback names the clip
    except (RayError, ExecutionTimeoutError) as error:
        if getattr(error, "actor_init_failed", False):
            raise _own_error(error) from error
        log.warning("the pass broke off: %s", str(error).strip().splitlines()[-1])
    finally:
        del dataset
        gc.collect()  # a broken dataset holds on to its actors, and with them the GPUs, until it is collected
    yield from _joined(pending, at_most=0)


def _joined(pending: dict[Any, Part], *, at_most: int) -> Iterator[ClipRecord]:
    """Records of finished joins; waits as long as more than ``at_most`` are in flight."""
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1, timeout=None if len(pending) > at_most else 0)
        if not done:
            return
        part = pending.pop(done[0])
        try:
            yield ray.get(done[0])
        except WorkerCrashedError:
            log.warning("the join of clip %s died; it is tried again in the next pass", part.clip_id)


def _join(join: Join, parts: list[Part]) -> ClipRecord:
    failed = next((part for part in parts if part.error_code), None)
    try:
        return failed_record(failed, join.recipe) if failed else join(parts)
    except ClipError as error:
        return failed_record(Part.failed(parts[0], error), join.recipe)


def _task(make: partial[Any], takes: type[Row], gives: type[Row]) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """A light stage as a Ray Data task: made once per worker process, when it is first called."""
    ready: list[Callable[[Any], Any]] = []

    def call(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not ready:
            ready.append(make())
        yield from _apply(ready[0], row, takes, gives)

    call.__name__ = call.__qualname__ = make.func.__name__  # what Ray's dashboard shows
    return call


class _SyncWorker:
    """The GPU stage in its actor: the model is loaded once; a lost device ends the process, so that Ray starts a fresh one."""

    def __init__(self, recipe: Recipe, device: Device) -> None:
        self.sync = Sync(recipe, device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return next(_apply(self.sync, row, Crops, Faces))
        except DeviceLost:
            log.critical("device lost at clip %s, segment %d: ending this worker", row["clip_id"], row["index"], exc_info=True)
            os._exit(1)


def _apply(stage: Callable[[Any], Any], row: dict[str, Any], takes: type[Row], gives: type[Row]) -> Iterator[dict[str, Any]]:
    """Call a stage on a row of a block, and give rows of the next.

    Rows that carry an error pass by; a ClipError becomes such a row; columns that are not ours are carried along.
    """
    taken, foreign = takes.from_row(row), _foreign(row, takes)
    if taken.error_code:
        yield {**foreign, **gives.failed(taken).to_row()}
        return
    with _Naming(taken):
        try:
            results = stage(taken)
            for result in [results] if isinstance(results, Row) else results:
                yield {**foreign, **result.to_row()}
        except ClipError as error:
            yield {**foreign, **gives.failed(taken, error).to_row()}


class _Naming:
    """Says, in the traceback of a bug, which clip showed it."""

    def __init__(self, row: Row) -> None:
        self.row = row

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            error.add_note(f"while working on clip {self.row.clip_id!r}")


def _foreign(row: Mapping[str, Any], known: type[Row]) -> dict[str, Any]:
    """Columns of ``row`` that are the user's."""
    names = {field.name for field in fields(known)}
    return {name: value for name, value in row.items() if name not in names}


def connect(cluster: Cluster) -> None:
    """Join the cluster, or start Ray on this machine, unless that was done; then set what Ray Data needs to be dependable."""
    logging.getLogger("ray").setLevel(logging.ERROR)  # how it starts interests nobody; what fails is raised
    if not ray.is_initialized():
        if cluster.address:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            store = int(cluster.object_store_gb * 2**30) if cluster.object_store_gb else None
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=store,
            )
    context = DataContext.get_current()
    context.target_max_block_size = 1 << 20  # a segment's crops are larger than this: one row, one block, one retry
    context.execution_no_progress_timeout_s = cluster.no_progress_seconds
    context.enable_progress_bars = False  # clips are counted by the driver
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the console; its log files keep everything
            handler.setLevel(logging.CRITICAL)


def _sync_pool(cluster: Cluster) -> tuple[float, tuple[int, int]]:
    """GPUs per model worker, and the fewest and most workers: unless told otherwise one a GPU, or one in all without GPUs."""
    present = int(ray.cluster_resources().get("GPU", 0)) if cluster.device in ("auto", "cuda") else 0
    gpus = float(present > 0) if cluster.sync_gpus is None else cluster.sync_gpus
    return gpus, cluster.sync_workers or (1, max(1, present if gpus else 0))


def _own_error(error: Exception) -> Exception:
    """Our error behind a model worker that could not start (weights missing, wrong checkpoint): Ray hands it over as text."""
    name, _, text = str(error).rpartition("latentsync_ray.errors.")[2].partition(": ")
    kind = getattr(errors, name, None)
    return kind(text) if isinstance(kind, type) and issubclass(kind, errors.LatentSyncError) else error
