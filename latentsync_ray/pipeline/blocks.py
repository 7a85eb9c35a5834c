"""The first four stages as operators of Ray Data: what each block holds, and what is asked of Ray for it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

from ray.data import ActorPoolStrategy, Dataset

from latentsync_ray.config import Cluster, Recipe
from latentsync_ray.errors import DeviceLost
from latentsync_ray.model.source import find_spec
from latentsync_ray.pipeline.cluster import nodes
from latentsync_ray.pipeline.shares import shares
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.generate import Generate
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.rows import apply, task
from latentsync_ray.types import Device, FaceCrops, GeneratedFaces, Pair, Part

__all__ = ["parts_dataset"]

log = logging.getLogger(__name__)


def parts_dataset(pairs: Dataset, output: str, recipe: Recipe, cluster: Cluster) -> Dataset:
    """Pairs in, rows of ``Part`` out, lazily; failed clips come out as one part row that carries the error."""
    ask = shares(cluster, nodes())
    cut = partial(_Cut, recipe, output, find_spec(recipe.model).resolution)
    pairs = Dataset.copy(pairs, _deep_copy=True)  # with a context of its own: the caller's stays as it is
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
            .flat_map(task(cut, Pair, FaceCrops), **ask.crop, **retried)
            .map(
                cast("Callable[[dict[str, Any]], dict[str, Any]]", _GenerateWorker),
                fn_constructor_kwargs={"recipe": recipe, "device": cluster.device},
                compute=ActorPoolStrategy(min_size=ask.workers[0], max_size=ask.workers[1]),
                max_task_retries=3,
                **ask.generate,
            )
            .flat_map(task(partial(Paste, recipe, output), GeneratedFaces, Part), **ask.paste, **retried)
        )


class _Cut:
    """Plan and crop, in one task: a clip is fetched when somebody has time for it, and read while it is still at hand."""

    def __init__(self, recipe: Recipe, output: str, resolution: int) -> None:
        self.plan, self.crop = Plan(recipe, output), Crop(recipe, resolution)

    def __call__(self, pair: Pair) -> Iterator[FaceCrops]:
        return self.crop(self.plan(pair))


class _GenerateWorker:
    """The GPU stage in its actor: the model is loaded once; a lost device ends the process, so that Ray starts a fresh one."""

    def __init__(self, recipe: Recipe, device: Device) -> None:
        self.generate = Generate(recipe, device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return next(apply(self.generate, row, FaceCrops, GeneratedFaces))
        except DeviceLost:
            log.critical("device lost at clip %s, segment %d: ending this worker", row["clip_id"], row["index"], exc_info=True)
            os._exit(1)
