"""The five stages on Ray Data, top to bottom.

    pairs -plan, crop-> crops -sync-> faces -paste-> parts -join-> records

Parts stream back to the driver, which counts them per clip and starts a clip's join the moment its last part is there: no
barrier, and a slow clip holds nobody up. Whatever goes wrong travels as a row: an error in a clip's data becomes its record, a
wrong setting stops the job at once, a bug is raised when all other clips are done. A worker that dies costs the clips it was
working on one more pass, in which finished parts are found in storage and not made again.
"""

from __future__ import annotations

import gc
import logging
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
from ray._private import worker as ray_worker
from ray.data import ActorPoolStrategy, Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from latentsync_ray import errors, redact
from latentsync_ray.config import Cluster, Job, Recipe
from latentsync_ray.errors import ConfigError, DeviceLost, WorkerDied
from latentsync_ray.model.source import find_spec
from latentsync_ray.model.specs import MODELS
from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.join import Join, failed_record
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.rows import BUG, apply, attempt, raise_settings, task
from latentsync_ray.stages.sync import Sync
from latentsync_ray.storage import delete, is_remote, join, write_bytes
from latentsync_ray.types import ClipRecord, Crops, Device, Faces, Pair, Part

__all__ = ["check_nodes", "connect", "dub", "join_parts", "parts_dataset", "told"]

log = logging.getLogger(__name__)

_NODE_SECONDS = 60.0
"""For a node to start a process and look for a file."""


def parts_dataset(pairs: Dataset, output: str, recipe: Recipe, cluster: Cluster) -> Dataset:
    """Pairs in, rows of ``Part`` out, lazily; failed clips come out as one part row that carries the error."""
    gpus, (fewest, most) = _sync_pool(cluster)
    cut = partial(_Cut, recipe, output, find_spec(recipe.model).resolution)
    context = pairs.context
    context.target_max_block_size = 1 << 20  # a segment's crops are larger than this: one row, one block, one retry
    context.execution_no_progress_timeout_s = cluster.no_progress_seconds
    context.enable_progress_bars = False  # clips are counted by the driver
    context.print_on_execution_start = False
    # Ray Data retries a killed worker's task for ever unless told so, and has no other way to be told yet.
    retried: dict[str, Any] = {"max_retries": 3}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*deprecated")
        return (
            pairs.repartition(target_num_rows_per_block=1)  # one clip a task: a block is what is retried, and what spreads out
            .flat_map(task(cut, Pair, Crops), num_cpus=cluster.crop_cpus, **retried)
            .map(
                cast("Callable[[dict[str, Any]], dict[str, Any]]", _SyncWorker),
                fn_constructor_kwargs={"recipe": recipe, "device": cluster.device},
                compute=ActorPoolStrategy(min_size=fewest, max_size=most),
                num_gpus=gpus,
                num_cpus=cluster.sync_cpus,
                max_task_retries=3,
            )
            .flat_map(task(partial(Paste, recipe, output), Faces, Part), num_cpus=cluster.paste_cpus, **retried)
        )


def dub(pairs: Iterable[Pair], job: Job, *, on_phase: Callable[[str], None] | None = None) -> Iterator[Part | ClipRecord]:
    """Dub pairs on Ray: every part as it is encoded, and each clip's record when it is finished, in no particular order.

    Raises ConfigError or ModelError when a worker meets one, and ConfigError when the first pass never got going. A part with
    the error code ``BUG`` stands for a clip that met a bug; it holds the traceback. ``on_phase`` is told what is under way.
    """
    left = {pair.clip_id: pair for pair in pairs}
    connect(job.cluster)
    if job.cluster.address:
        check_nodes(job)
    for number in range(job.cluster.passes):
        if not left:
            return
        if on_phase:
            on_phase(f"pass {number + 1}: waiting for frames" if number else "waiting for the first frames")
        if number:
            log.warning("pass %d: %d clips whose workers died are tried again", number + 1, len(left))
        with _without_worker_messages():
            for result in _one_pass(list(left.values()), job, first=number == 0):
                if isinstance(result, ClipRecord) or result.error_code == BUG:
                    left.pop(result.clip_id, None)
                yield result
    for pair in left.values():
        died = WorkerDied(
            f"it was not finished in {job.cluster.passes} passes: the process working on it died each time (out of memory?), "
            f"or nothing moved for {job.cluster.no_progress_seconds:.0f} s; Ray's logs{_logs_folder()} say which"
        )
        yield failed_record(Pair.of_failed(pair, died), job.recipe)


def _one_pass(pairs: list[Pair], job: Job, *, first: bool) -> Iterator[Part | ClipRecord]:
    """One run of the dataset over ``pairs``. A pass that breaks off just ends: what it did not yield is left for the next.

    Raises ConfigError when the first one waited in vain: clips that nobody touched are not to blame.
    """
    # Not retried: it removes the parts it has joined. A join that dies is made up for in the next pass.
    join = ray.remote(num_cpus=0, max_retries=0)(join_parts)
    stage = Join(job.recipe, job.output, lookup(SINKS, job.sink, "sink")(job.output))
    at_most = max(8, int(ray.cluster_resources().get("CPU", 0)))  # each copies one clip: mostly waiting for storage
    arrived: dict[str, dict[int, Part]] = {}
    settled: set[str] = set()
    pending: dict[Any, Part] = {}
    rows = [pair.to_row() for pair in pairs]
    todo = ray.data.from_items(rows, override_num_blocks=min(len(rows), 200))
    todo.context.max_errored_blocks = -1  # a block whose worker died drops out; the next pass makes it again
    dataset = parts_dataset(todo, job.output, job.recipe, job.cluster)
    try:
        for row in dataset.iter_rows():
            part = Part.from_row(row)
            if part.clip_id in settled:
                continue
            if part.error_code:
                settled.add(part.clip_id)
                yield told(part, job.recipe)
                continue
            parts = arrived.setdefault(part.clip_id, {})
            if part.index not in parts:
                yield part
            parts[part.index] = part
            if len(parts) == part.segment_count:
                settled.add(part.clip_id)
                pending[join.remote(stage, list(arrived.pop(part.clip_id).values()))] = part
            yield from _joined(pending, job.recipe, at_most=at_most)
    except (RayError, ExecutionTimeoutError) as error:
        if getattr(error, "actor_init_failed", False):
            raise _own_error(error) from error
        if first and isinstance(error, ExecutionTimeoutError) and not settled and not arrived:
            raise ConfigError(_never_began(len(pairs), job.cluster)) from error
        log.warning("the pass broke off: %s", redact.text(str(error).strip().splitlines()[-1]))
    finally:
        del dataset, todo
        gc.collect()  # a broken dataset holds on to its actors, and with them the GPUs, until it is collected
    yield from _joined(pending, job.recipe, at_most=0)


def _joined(pending: dict[Any, Part], recipe: Recipe, *, at_most: int) -> Iterator[Part | ClipRecord]:
    """What finished joins gave; waits as long as more than ``at_most`` are in flight."""
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1, timeout=None if len(pending) > at_most else 0)
        if not done:
            return
        part = pending.pop(done[0])
        try:
            result = ray.get(done[0])
        except RayError as error:
            log.warning("the join of clip %s died (%s); it is made up for in the next pass", part.clip_id, type(error).__name__)
            continue
        yield told(result, recipe)


def join_parts(join: Join, parts: list[Part]) -> Part | ClipRecord:
    """The clip's record, or a part with the error that it met in an earlier stage or here."""
    first = next((part for part in parts if part.error_code), parts[0])
    return cast("Part | ClipRecord", next(attempt(lambda _: join(parts), first, Part)))


def told(result: Part | ClipRecord, recipe: Recipe) -> Part | ClipRecord:
    """A clip's record, failed or not; of a clip that met a bug, the part. Raises what makes the whole job impossible."""
    if isinstance(result, ClipRecord):
        return result
    raise_settings(result)
    return result if result.error_code == BUG else failed_record(result, recipe)


class _Cut:
    """Plan and crop, in one task: a clip is fetched when somebody has time for it, and read while it is still at hand."""

    def __init__(self, recipe: Recipe, output: str, resolution: int) -> None:
        self.plan, self.crop = Plan(recipe, output), Crop(recipe, resolution)

    def __call__(self, pair: Pair) -> Iterator[Crops]:
        return self.crop(self.plan(pair))


class _SyncWorker:
    """The GPU stage in its actor: the model is loaded once; a lost device ends the process, so that Ray starts a fresh one."""

    def __init__(self, recipe: Recipe, device: Device) -> None:
        self.sync = Sync(recipe, device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return next(apply(self.sync, row, Crops, Faces))
        except DeviceLost:
            log.critical("device lost at clip %s, segment %d: ending this worker", row["clip_id"], row["index"], exc_info=True)
            os._exit(1)


def connect(cluster: Cluster) -> None:
    """Join the cluster, or start Ray on this machine, unless that was done; and keep Ray's own messages in its log files.

    Raises ConfigError when no cluster answers at its address.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # how it starts interests nobody; what fails is raised
    if not ray.is_initialized():
        if cluster.address:
            try:
                ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise ConfigError(
                    f"cluster.address is {cluster.address!r}, and no Ray cluster answers there: {error}"
                ) from error
        else:
            store = int(cluster.object_store_gb * 2**30) if cluster.object_store_gb else None
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=store,
            )
    # A pass in which every clip failed before the model is no reason for advice on how many workers to have.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    for handler in (*logging.getLogger("ray").handlers, *logging.getLogger("ray.data").handlers):
        # Ray's console; its log files keep everything, and what hears all other loggers too is not Ray's.
        if isinstance(handler, logging.StreamHandler) and handler not in logging.root.handlers:
            handler.setLevel(logging.CRITICAL)


@contextmanager
def _without_worker_messages() -> Iterator[None]:
    """Meanwhile, what Ray tells of dead workers stays in its log files, unless it was asked to show workers' output.

    Ray prints it on stdout, among the results, with ``log_to_driver`` or without; the only switch is its debugger's.
    """
    output = getattr(ray_worker.global_worker, "logger_thread", None)
    before = ray_worker._worker_logs_enabled
    ray_worker._worker_logs_enabled = before and output is not None and output.is_alive()
    try:
        yield
    finally:
        ray_worker._worker_logs_enabled = before


def check_nodes(job: Job) -> None:
    """Ask every node of the cluster whether it sees the output and the model, where they are paths of this machine.

    Raises ConfigError that names the nodes that do not.
    """
    paths = {}
    if not is_remote(job.output):
        paths["output"] = join(job.output, "_work", f"seen-{uuid.uuid4().hex}")
        write_bytes(paths["output"], b"")
    if Path(find_spec(job.recipe.model).source).is_dir() and job.recipe.model not in MODELS:
        paths["recipe.model"] = job.recipe.model
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]] if paths else []
        look = ray.remote(num_cpus=0, max_retries=0)(_sees)
        answers = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers[look.options(scheduling_strategy=there).remote(paths)] = node["NodeManagerAddress"]
        blind = {key: [] for key in paths}
        answered, silent = ray.wait(list(answers), num_returns=len(answers), timeout=_NODE_SECONDS) if answers else ([], [])
        for answer in answered:
            try:
                unseen = cast("list[str]", ray.get(answer))
            except RayError as error:  # it may have left the cluster
                log.warning("node %s could not be asked what it sees: %s", answers[answer], error)
                continue
            for key in unseen:
                blind[key].append(answers[answer])
        if silent:
            log.warning("%d of %d nodes did not say in %.0f s what they see", len(silent), len(nodes), _NODE_SECONDS)
    finally:
        delete(path for key, path in paths.items() if key == "output")
    for key, addresses in blind.items():
        if addresses:
            place = job.output if key == "output" else job.recipe.model
            raise ConfigError(
                f"{key} is {place}, a path that {len(addresses)} of the cluster's {len(nodes)} nodes do not see "
                f"({', '.join(addresses[:3])}): name a URI of an object store, or a folder that is mounted on all of them"
            )


def _sees(paths: dict[str, str]) -> list[str]:
    """The keys of the paths that do not exist here; network filesystems may take a moment to show what was just written."""
    unseen = list(paths)
    for _ in range(10):
        unseen = [key for key, path in paths.items() if not Path(path.removeprefix("file://")).exists()]
        if not unseen:
            break
        time.sleep(0.5)
    return unseen


def _sync_pool(cluster: Cluster) -> tuple[float, tuple[int, int]]:
    """GPUs per model worker, and the fewest and most workers: unless told otherwise one a GPU, or one in all without GPUs."""
    present = ray.cluster_resources().get("GPU", 0.0) if cluster.device in ("auto", "cuda") else 0.0
    if cluster.address and cluster.device == "auto" and not present and cluster.sync_gpus is None:
        raise ConfigError(
            f"the cluster at {cluster.address} has no GPU yet: set cluster.sync_gpus=1 and cluster.sync_workers to wait for "
            "some, or cluster.device=cpu to do without"
        )
    gpus = float(present > 0) if cluster.sync_gpus is None else cluster.sync_gpus
    return gpus, cluster.sync_workers or (1, max(1, int(present / gpus) if gpus else 1))


def _never_began(clips: int, cluster: Cluster) -> str:
    """What a pass that gave nothing was waiting for, and what to do about it."""
    (gpus, (fewest, _)), present, free = _sync_pool(cluster), ray.cluster_resources(), ray.available_resources()
    has = " and ".join(f"{present.get(kind, 0):g} {kind} ({free.get(kind, 0):g} free)" for kind in ("GPU", "CPU"))
    return (
        f"of {clips} clips nothing came in {cluster.no_progress_seconds:.0f} s. Asked for: at least {fewest} model workers of "
        f"{gpus:g} GPU and {cluster.sync_cpus:g} CPU, {cluster.crop_cpus:g} CPU to decode a clip, {cluster.paste_cpus:g} "
        f"to encode one; the cluster has {has}. If that is too little, let it grow or lower cluster.sync_gpus, "
        "cluster.sync_workers or cluster.sync_cpus; if the model or the first clip takes longer, raise "
        f"cluster.no_progress_seconds; `ray status` and Ray's logs{_logs_folder()} say more. Run the job again then: no clip "
        "was recorded as failed for it"
    )


def _logs_folder() -> str:
    """Where Ray's logs lie, in brackets; empty where Ray does not say it, as to a driver outside the cluster."""
    context = ray.get_runtime_context()
    try:
        return f" ({context.get_temp_dir()}/{context.get_session_name()}/logs)"
    except AttributeError:
        return ""


def _own_error(error: Exception) -> Exception:
    """Our error behind a model worker that could not start (weights missing, wrong checkpoint): Ray hands it over as text."""
    name, _, text = str(error).rpartition("latentsync_ray.errors.")[2].partition(": ")
    kind = getattr(errors, name, None)
    return kind(text) if isinstance(kind, type) and issubclass(kind, errors.LatentSyncError) else error
