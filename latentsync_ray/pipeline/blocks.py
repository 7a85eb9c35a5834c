"""The stages that make parts, as operators of Ray Data."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from latentsync_ray import filesystems
from latentsync_ray.config import Cluster, Quality, Recipe
from latentsync_ray.errors import DeviceLost
from latentsync_ray.models.find import find_model
from latentsync_ray.pipeline.cluster import nodes
from latentsync_ray.pipeline.shares import shares
from latentsync_ray.pipeline.steady import steady
from latentsync_ray.stages.rows import apply, task
from latentsync_ray.stages.table import STAGES, Settings, tasks
from latentsync_ray.storage_options import StorageOptions

__all__ = ["parts_dataset", "retries_set"]

log = logging.getLogger(__name__)

_AT_ONCE = 3
"""Segments in a model worker: while the device draws one, the next is prepared and the last one put away."""


def parts_dataset(
    pairs: Dataset,
    output: str,
    recipe: Recipe,
    cluster: Cluster,
    *,
    keep_faces: bool = False,
    deadline: float | None = None,
    quality: Quality | None = None,
    storage_options: StorageOptions | None = None,
    tiny: bool = False,
) -> Dataset:
    """Pairs in, rows of ``Part`` out, lazily; failed clips come out as one part row that carries the error.

    No clip begins after ``deadline``, in seconds since 1970. With ``quality``, clips go on with the attempt that is due.
    ``tiny``: all blocks of the dataset may be of one row, also those of steps before and after. Else there are tasks between
    the stages that cut them up, and want a CPU each.

    Raises ConfigError when there is no such model, or as ``shares``.
    """
    find_model(recipe.model)  # a name that is wrong is told here, and not by workers
    ask, memory = shares(cluster, nodes()), cluster.device_memory_gb and cluster.device_memory_gb * 1e9
    asked = Settings(
        recipe,
        output,
        cluster.device,
        keep_faces,
        device_memory=memory,
        device_share=ask.device_share,
        quality=quality,
        storage_options=storage_options or {},
    )
    pairs = Dataset.copy(pairs, _deep_copy=True)  # with a context of its own: the caller's stays as it is
    context = pairs.context
    # One row, one block: that is what is retried, and what spreads out. A segment's crops are larger than 1 MB.
    context.target_max_block_size = 1 if tiny else 1 << 20
    context.execution_no_progress_timeout_s = cluster.no_progress_seconds
    context.enable_progress_bars = False  # clips are counted by the driver
    context.print_on_execution_start = False
    steady(context)
    if tiny:
        rows = pairs.flat_map(_one_by_one, num_cpus=0, compute=TaskPoolStrategy(size=1))  # no CPUs and no size: no end of tasks
    else:
        rows = pairs.repartition(target_num_rows_per_block=1)
    with retries_set():
        for group in tasks():
            name = group[-1].name
            if group[-1].model:
                rows = rows.map(
                    cast("Callable[[dict[str, Any]], dict[str, Any]]", _ModelWorker),
                    fn_constructor_kwargs={"name": name, "asked": asked},
                    compute=ActorPoolStrategy(
                        min_size=ask.workers[0],
                        max_size=ask.workers[1],
                        max_concurrent_calls_per_actor=_AT_ONCE,
                        enable_true_multi_threading=True,
                    ),
                    max_task_retries=3,
                    **ask.of[name],
                )
            else:
                # Ray Data retries a killed worker's task for ever unless told so, and runs stages that ask for the same in one
                # task, unless they say that what they ask for may change.
                each, may_change = task(group, asked, deadline=deadline), dict if group[-1].fans_out else None
                rows = rows.flat_map(each, max_retries=3, ray_remote_args_fn=may_change, **ask.of[name])
            if group[-1].fans_out and not tiny:
                rows = rows.repartition(target_num_rows_per_block=1)
    return rows


@contextmanager
def retries_set() -> Iterator[None]:
    """For steps that say how often they are retried: Ray Data warns of it, and has no other way to be told yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*deprecated")
        yield


def _one_by_one(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [row]


class _ModelWorker:
    """The GPU stage in its actor: the model is loaded once; a lost device ends the process, so that Ray starts a fresh one."""

    def __init__(self, name: str, asked: Settings) -> None:
        filesystems.configure(asked.storage_options)
        self.stage = next(stage for stage in STAGES if stage.name == name)
        self.call = self.stage.make(asked)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return next(apply(self.call, row, self.stage.takes, self.stage.gives))
        except DeviceLost:
            log.critical("device lost at clip %s, segment %d: ending this worker", row["clip_id"], row["index"], exc_info=True)
            os._exit(1)
